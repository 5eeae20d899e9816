package dialect

import (
	"errors"
	"strings"

	"github.com/go-json-experiment/json"
)

// generate is Gemini's POST /v1beta/models/MODEL:generateContent, and :streamGenerateContent. Its JSON is that of protocol buffers,
// which take each name in two spellings, maxOutputTokens and max_output_tokens: here the first is the only one.
type generate struct{}

var generateMembers = strings.Fields(`contents systemInstruction tools toolConfig generationConfig safetySettings cachedContent labels`)

// What is not here brings answers at other rates: responseModalities and speechConfig do.
var generationMembers = strings.Fields(`maxOutputTokens candidateCount temperature topP topK seed stopSequences presencePenalty frequencyPenalty
	responseMimeType responseSchema responseJsonSchema _responseJsonSchema responseLogprobs logprobs thinkingConfig mediaResolution
	enableEnhancedCivicAnswers`)

func (g generate) read(r *Request, o *object) error {
	if err := onlyKnown(o, "", generateMembers); err != nil {
		return spelled(err)
	}
	r.limit, r.wantsUsage = []string{"generationConfig", "maxOutputTokens"}, true
	if o.get("cachedContent") != nil {
		r.Opaque = "content that the provider has in a cache"
	}
	config, err := o.object("generationConfig")
	if err != nil {
		return err
	}
	if config != nil {
		if err := onlyKnown(config, "of generationConfig: ", generationMembers); err != nil {
			return spelled(err)
		}
		if r.output, err = config.count("maxOutputTokens"); err != nil {
			return err
		}
		n, err := config.count("candidateCount")
		if err != nil {
			return err
		}
		if n > 1 && r.Stream {
			return refuse(Invalid, "candidateCount %d in a stream: its end does not tell what all of them used", n)
		}
		r.choices = max(n, 1)
	}
	if err := g.readTools(r, o); err != nil {
		return err
	}
	instruction, err := o.object("systemInstruction")
	if err != nil {
		return err
	}
	if instruction != nil {
		if err := g.readContent(r, instruction); err != nil {
			return err
		}
	}
	contents, err := o.objects("contents")
	if err != nil {
		return err
	}
	for _, content := range contents {
		if err := g.readContent(r, content); err != nil {
			return err
		}
	}
	return nil
}

// spelled adds the way out for a client that writes the other spelling.
func spelled(err error) error {
	var refusal *Refusal
	if errors.As(err, &refusal) && strings.Contains(refusal.Message, "_") {
		return refuse(refusal.Reason, "%s; names are read as maxOutputTokens, not as max_output_tokens", refusal.Message)
	}
	return err
}

func (generate) readTools(r *Request, o *object) error {
	tools, err := o.objects("tools")
	if err != nil || len(tools) == 0 {
		return err
	}
	r.input += aroundTools
	for _, tool := range tools {
		if err := onlyKnown(tool, "a tool that runs at the provider: ", []string{"functionDeclarations"}); err != nil {
			return spelled(err)
		}
		functions, err := tool.elements("functionDeclarations")
		if err != nil {
			return err
		}
		r.input += aroundMessage * int64(len(functions))
	}
	return nil
}

func (g generate) readContent(r *Request, content *object) error {
	r.input += aroundMessage
	if err := onlyKnown(content, "of a content: ", []string{"role", "parts"}); err != nil {
		return err
	}
	parts, err := content.objects("parts")
	if err != nil {
		return err
	}
	for _, part := range parts {
		for _, m := range part.members {
			switch m.name {
			case "text", "thought", "functionCall":
			case "functionResponse":
				response, err := part.object(m.name)
				if err != nil {
					return err
				}
				if err := g.readGiven(r, response); err != nil {
					return err
				}
			case "inlineData", "fileData":
				r.Opaque = "a part with " + m.name
				if err := g.readMedia(part, m.name); err != nil {
					return err
				}
			case "thoughtSignature", "mediaResolution":
				r.Opaque = "a part with " + m.name
			default:
				return spelled(refuse(Invalid, "a part with %.80q is not known here, and may cost: leave it out", m.name))
			}
		}
	}
	return nil
}

// readGiven takes the images and files that a function gave.
func (g generate) readGiven(r *Request, response *object) error {
	if response == nil {
		return nil
	}
	parts, err := response.objects("parts")
	if err != nil {
		return err
	}
	for _, part := range parts {
		r.Opaque = "parts of a functionResponse"
		for _, m := range part.members {
			if m.name != "inlineData" && m.name != "fileData" {
				return spelled(refuse(Invalid, "a part of a functionResponse with %.80q is not known here, and may cost: leave it out", m.name))
			}
			if err := g.readMedia(part, m.name); err != nil {
				return err
			}
		}
	}
	return nil
}

// readMedia takes images and documents: audio, which films have too, is charged at rates that no price list here names.
func (generate) readMedia(part *object, name string) error {
	media, err := part.object(name)
	if err != nil || media == nil {
		return err
	}
	if err := onlyKnown(media, "of "+name+": ", []string{"mimeType", "data", "fileUri", "displayName"}); err != nil {
		return spelled(err)
	}
	at, _, err := media.text("fileUri")
	if err != nil {
		return err
	}
	if strings.Contains(strings.ToLower(at), "youtu") { // whatever its mimeType says
		return refuse(Invalid, "%s: a film has a sound, which has no rate here: leave it out", name)
	}
	kind, _, err := media.text("mimeType")
	if err != nil {
		return err
	}
	if !strings.HasPrefix(kind, "image/") && !strings.HasPrefix(kind, "text/") && kind != "application/pdf" {
		return refuse(Invalid, "%s with mimeType %.80q: only images, text and PDF have a rate here", name, kind)
	}
	return nil
}

// modalities are tokens by what they stand for.
type modalities []struct {
	Modality string `json:"modality"`
	Tokens   int64  `json:"tokenCount"`
}

// heard says whether some stand for sound.
func (all modalities) heard() bool {
	for _, m := range all {
		if m.Tokens != 0 && (m.Modality == "AUDIO" || m.Modality == "VIDEO") {
			return true
		}
	}
	return false
}

// usage is in the answer and, of a stream, in each of its parts, of all until then; it counts from the part on that says why the
// answer ends.
func (generate) usage(u *Usage, message []byte) (found, last bool, err error) {
	var m struct {
		Usage *struct {
			Prompt     *int64 `json:"promptTokenCount"` // with what is cached
			Cached     int64  `json:"cachedContentTokenCount"`
			Candidates int64  `json:"candidatesTokenCount"`
			Thoughts   int64  `json:"thoughtsTokenCount"`
			ToolPrompt int64  `json:"toolUsePromptTokenCount"`

			Of    modalities `json:"promptTokensDetails"`
			Given modalities `json:"candidatesTokensDetails"`
		} `json:"usageMetadata"`
		Candidates []struct {
			Finish string `json:"finishReason"`
		} `json:"candidates"`
		Feedback struct {
			Block string `json:"blockReason"`
		} `json:"promptFeedback"`
	}
	if err := json.Unmarshal(message, &m); err != nil {
		return false, false, err
	}
	if m.Usage == nil || m.Usage.Prompt == nil {
		return false, false, nil
	}
	if m.Usage.Of.heard() || m.Usage.Given.heard() {
		return false, false, errors.New("usage of audio, which has rates of its own")
	}
	*u = Usage{
		Input:     *m.Usage.Prompt - m.Usage.Cached + m.Usage.ToolPrompt,
		CacheRead: m.Usage.Cached,
		Output:    m.Usage.Candidates + m.Usage.Thoughts,
		Reasoning: m.Usage.Thoughts,
	}
	if err := u.check(); err != nil {
		return false, false, err
	}
	// Before a candidate ends, more may be used than this says.
	ended := m.Feedback.Block != ""
	for _, c := range m.Candidates {
		ended = ended || c.Finish != ""
	}
	return ended, false, nil
}
