package startconf

import (
	"bytes"
	"encoding/base64"
	"slices"
	"strings"
	"testing"
)

const testARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

func TestKMSSecrets(t *testing.T) {
	line := func(words ...string) string { return "kms_secret = " + strings.Join(words, " ") + "\n" }
	many := ""
	for i := range MaxKMSSecrets + 1 {
		many += line(strings.Repeat("a", i+1), testARN, "AAAA")
	}
	for _, c := range []struct{ name, text, want string }{
		{"one", line("openai", testARN, "AAAA"), ""},
		{"of a multi-Region key", line("openai", strings.Replace(testARN, "1234abcd", "mrk-1234", 1), "AAAA"), ""},
		{"two", line("openai", testARN, "AAAA") + line("team/anthropic", testARN, "AAAB"), ""},
		{"two words", line("openai", testARN), "2 words: use NAME ARN CIPHERTEXT"},
		{"a name with a colon", line("open:ai", testARN, "AAAA"), `name "open:ai"`},
		{"an alias", line("openai", "arn:aws:kms:eu-central-1:111122223333:alias/raypher", "AAAA"), "no alias"},
		{"an id", line("openai", "1234abcd-12ab-34cd-56ef-1234567890ab", "AAAA"), "is not the ARN of a KMS key"},
		{"a region that leads elsewhere", line("openai", strings.Replace(testARN, "eu-central-1", "x.example.org/-1", 1), "AAAA"), "is not the ARN"},
		{"China, whose endpoints are others", line("openai", strings.Replace(testARN, "arn:aws:kms:eu-central-1", "arn:aws-cn:kms:cn-north-1", 1), "AAAA"), "is not the ARN"},
		{"no base64", line("openai", testARN, "A"), "not base64"},
		{"a long ciphertext", line("openai", testARN, base64.StdEncoding.EncodeToString(make([]byte, MaxKMSCiphertext+1))), "6145 bytes, use 1 to 6144"},
		{"twice", line("openai", testARN, "AAAA") + line("openai", testARN, "AAAB"), "f:2: kms_secret: openai stands twice"},
		{"two regions", line("openai", testARN, "AAAA") + line("b", strings.Replace(testARN, "eu-central", "us-east", 1), "AAAA"), "use one region"},
		{"too many", many, "more than 16"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Parse("f", []byte(c.text))
			switch {
			case c.want != "":
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("error %v, want one with %q", err, c.want)
				}
			case err != nil:
				t.Error(err)
			default:
				again, err := Parse("g", got.Format())
				if err != nil || again.Hash() != got.Hash() {
					t.Errorf("own form: %v", err)
				}
				if want := []string{"kms.eu-central-1.amazonaws.com:443", "169.254.169.254:80"}; !slices.Equal(got.Egress(), want) {
					t.Errorf("egress %q", got.Egress())
				}
			}
		})
	}
}

// Which secrets an enclave asks for, and of whom, is in its configuration's hash; the order of lines is not.
func TestHashNamesKMSSecrets(t *testing.T) {
	parse := func(text string) *Configuration {
		c, err := Parse("f", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	a, b := "kms_secret = a "+testARN+" AAAA\n", "kms_secret = b "+testARN+" AAAB\n"
	whole := parse(a + b)
	if parse(b+a).Hash() != whole.Hash() {
		t.Error("the order of lines changed the hash")
	}
	for name, change := range map[string]func(*KMSSecret){
		"name":       func(s *KMSSecret) { s.Name = "c" },
		"key":        func(s *KMSSecret) { s.Key = strings.Replace(testARN, "1111", "2222", 1) },
		"ciphertext": func(s *KMSSecret) { s.Ciphertext = bytes.Repeat([]byte{1}, 3) },
	} {
		other := parse(a + b)
		if change(&other.KMSSecrets[0]); other.Hash() == whole.Hash() {
			t.Errorf("another %s has the same hash", name)
		}
	}
}
