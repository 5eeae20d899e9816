package eif

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// Description is the metadata of an image: what its builder says, which nothing measures and nobody may rely on
// (EifIdentityInfo in src/defs/mod.rs).
type Description struct {
	Name           string          `json:"ImageName"`
	Version        string          `json:"ImageVersion"`
	Build          BuildInfo       `json:"BuildMetadata"`
	DockerInfo     json.RawMessage // of an image that was made from a container image; else null
	CustomMetadata json.RawMessage // the builder's own; else null
}

// BuildInfo says how an image was made (EifBuildInfo in src/defs/mod.rs).
type BuildInfo struct {
	BuildTime        string // RFC 3339
	BuildTool        string
	BuildToolVersion string
	OperatingSystem  string
	KernelVersion    string
}

// maxNesting bounds arrays and objects inside each other in metadata.
const maxNesting = 16

func parseMetadata(raw []byte) (Description, error) {
	if !utf8.Valid(raw) {
		return Description{}, errors.New("not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	if err := checkValue(d, 0); err != nil {
		return Description{}, err
	}
	if _, err := d.Token(); err != io.EOF {
		return Description{}, errors.New("something after the JSON object")
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil || fields == nil {
		return Description{}, errors.New("not a JSON object")
	}
	// By hand: encoding/json takes names in other capitals for these.
	var m Description
	for _, f := range []struct {
		name string
		into any
	}{{"ImageName", &m.Name}, {"ImageVersion", &m.Version}, {"BuildMetadata", &m.Build}, {"DockerInfo", &m.DockerInfo}, {"CustomMetadata", &m.CustomMetadata}} {
		value, there := fields[f.name]
		if !there {
			return Description{}, fmt.Errorf("no %s", f.name)
		}
		if err := json.Unmarshal(value, f.into); err != nil {
			return Description{}, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return m, nil
}

// checkValue reads one value and refuses deep nesting and names that stand twice in an object, of which readers choose
// different ones.
func checkValue(d *json.Decoder, depth int) error {
	if depth > maxNesting {
		return fmt.Errorf("more than %d levels", maxNesting)
	}
	token, err := d.Token()
	if err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	opening, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	names := make(map[string]bool)
	for d.More() {
		if opening == '{' {
			name, err := d.Token()
			if err != nil {
				return fmt.Errorf("not JSON: %w", err)
			}
			if names[name.(string)] {
				return fmt.Errorf("%q stands twice in one object", name)
			}
			names[name.(string)] = true
		}
		if err := checkValue(d, depth+1); err != nil {
			return err
		}
	}
	if _, err = d.Token(); err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	return nil
}

// encode writes the section as the format's own builder does: fields in this order, null where there is nothing.
func (m Description) encode() ([]byte, error) {
	null := json.RawMessage("null")
	if m.DockerInfo == nil {
		m.DockerInfo = null
	}
	if m.CustomMetadata == nil {
		m.CustomMetadata = null
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	return raw, nil
}
