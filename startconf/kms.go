package startconf

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Bounds of secrets from AWS KMS.
const (
	MaxKMSSecrets    = 16
	MaxKMSCiphertext = 6144 // bytes: API_Decrypt, CiphertextBlob
)

// KMSSecret is a secret that AWS KMS decrypts for this enclave, if the key's policy lets it. The values are no secret: what protects the
// secret is that policy.
type KMSSecret struct {
	Name       string `cbor:"1,keyasint"`
	Key        string `cbor:"2,keyasint"` // ARN of the KMS key; it says the region too
	Ciphertext []byte `cbor:"3,keyasint"` // as `aws kms encrypt` returns it
}

// Names of secrets are those that a controller takes. An ARN of a key, or of a multi-Region key, is that of API_DescribeKey; the partition of
// China has endpoints and roots of its own, which are not known here.
// They are compiled when they are needed, as most programs that read configurations start often and have none.
var (
	kmsName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z0-9._/-]{1,128}$`) })
	kmsARN  = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^arn:aws(-us-gov)?:kms:([a-z]{2,3}(-[a-z]{2,12}){1,3}-[0-9]{1,2}):[0-9]{12}:key/[a-zA-Z0-9-]{1,64}$`)
	})
)

// Region is the AWS region of the key.
func (s *KMSSecret) Region() string {
	if parts := kmsARN().FindStringSubmatch(s.Key); parts != nil {
		return parts[2]
	}
	return ""
}

// Host is where the region's KMS answers, by TLS on port 443.
func (s *KMSSecret) Host() string { return "kms." + s.Region() + ".amazonaws.com" }

// String is the form that the file uses: NAME ARN CIPHERTEXT, with the ciphertext in base64.
func (s *KMSSecret) String() string {
	return s.Name + " " + s.Key + " " + base64.StdEncoding.EncodeToString(s.Ciphertext)
}

func addKMSSecret(list []KMSSecret, value string) ([]KMSSecret, error) {
	fields := strings.Fields(value)
	if len(fields) != 3 {
		return list, fmt.Errorf("kms_secret: %d words: use NAME ARN CIPHERTEXT", len(fields))
	}
	s := KMSSecret{Name: fields[0], Key: fields[1]}
	if !kmsName().MatchString(s.Name) {
		return list, fmt.Errorf("kms_secret: name %.60q: use 1 to 128 of a-z A-Z 0-9 . - _ /", s.Name)
	}
	if s.Region() == "" {
		return list, fmt.Errorf("kms_secret %s: %.100q is not the ARN of a KMS key: use arn:aws:kms:REGION:ACCOUNT:key/ID, no alias", s.Name, s.Key)
	}
	var err error
	if s.Ciphertext, err = base64.StdEncoding.Strict().DecodeString(fields[2]); err != nil {
		return list, fmt.Errorf("kms_secret %s: the ciphertext is not base64: use what `aws kms encrypt --query CiphertextBlob --output text` prints", s.Name)
	}
	switch {
	case len(s.Ciphertext) == 0 || len(s.Ciphertext) > MaxKMSCiphertext:
		return list, fmt.Errorf("kms_secret %s: a ciphertext of %d bytes, use 1 to %d", s.Name, len(s.Ciphertext), MaxKMSCiphertext)
	case slices.ContainsFunc(list, func(other KMSSecret) bool { return other.Name == s.Name }):
		return list, fmt.Errorf("kms_secret: %s stands twice: keep one", s.Name)
	case len(list) > 0 && list[0].Host() != s.Host():
		return list, fmt.Errorf("kms_secret %s: a key in another region than that of %s: use one region", s.Name, list[0].Name)
	case len(list) == MaxKMSSecrets:
		return list, fmt.Errorf("kms_secret: more than %d", MaxKMSSecrets)
	}
	return append(list, s), nil
}

func sortedKMSSecrets(in []KMSSecret) []KMSSecret {
	out := slices.Clone(in)
	slices.SortFunc(out, func(a, b KMSSecret) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Egress lists what an enclave with this configuration has to be connected to, as host:port: its controller; for secrets from KMS the region's
// endpoint, and the metadata service of EC2 that has the credentials for it.
func (c *Configuration) Egress() []string {
	var list []string
	if c.Controller != "" {
		list = append(list, c.Controller)
	}
	if len(c.KMSSecrets) > 0 {
		list = append(list, c.KMSSecrets[0].Host()+":443", "169.254.169.254:80")
	}
	return list
}
