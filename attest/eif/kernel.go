package eif

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// kernel is what a kernel image says of itself.
type kernel struct {
	architecture Architecture
	version      string // empty: it does not say
}

// identify recognizes the two forms of kernels that enclaves boot: bzImage on x86 (Documentation/arch/x86/boot.rst) and Image on
// arm64 (Documentation/arch/arm64/booting.rst).
func identify(image []byte) (kernel, error) {
	const (
		bootFlag      = 0x1fe // 0xAA55
		headerMagic   = 0x202 // "HdrS"
		kernelVersion = 0x20e // offset of a text, less 0x200
		x86Header     = 0x230
		arm64Magic    = 56 // "ARM\x64"
		arm64Header   = 64
	)
	if len(image) >= x86Header && binary.LittleEndian.Uint16(image[bootFlag:]) == 0xaa55 && string(image[headerMagic:headerMagic+4]) == "HdrS" {
		k := kernel{architecture: AMD64}
		if at := int(binary.LittleEndian.Uint16(image[kernelVersion:])); at != 0 && at+0x200 < len(image) {
			text := image[at+0x200 : min(len(image), at+0x200+64)]
			text, _, _ = bytes.Cut(text, []byte{0})
			k.version = firstWord(string(text))
		}
		return k, nil
	}
	if len(image) >= arm64Header && string(image[arm64Magic:arm64Magic+4]) == "ARM\x64" {
		return kernel{architecture: ARM64}, nil
	}
	return kernel{}, errors.New("the kernel is neither a bzImage (x86_64) nor an Image (aarch64)")
}

// firstWord is the first word of a text, or nothing where it is not of printable ASCII.
func firstWord(text string) string {
	word, _, _ := strings.Cut(text, " ")
	for _, c := range []byte(word) {
		if c < 0x21 || c > 0x7e {
			return ""
		}
	}
	return word
}

// ParseKernelConfig finds the version in a kernel's configuration file, whose head says "# Linux/x86 6.6.38 Kernel
// Configuration".
func ParseKernelConfig(config []byte) (version string, err error) {
	head := string(config[:min(len(config), 1024)])
	for _, line := range strings.Split(head, "\n") {
		if words := strings.Fields(line); len(words) == 5 && words[0] == "#" && strings.HasPrefix(words[1], "Linux/") && words[3] == "Kernel" {
			return words[2], nil
		}
	}
	return "", errors.New(`no line "# Linux/ARCH VERSION Kernel Configuration" at its head: is this the configuration of a kernel?`)
}

// checkCommandLine refuses what a kernel could read otherwise than a person.
func checkCommandLine(text string) error {
	if text == "" || len(text) > MaxCommandLine {
		return fmt.Errorf("the command line has %d bytes, it must have 1 to %d", len(text), MaxCommandLine)
	}
	for at, c := range []byte(text) {
		if c < 0x20 || c > 0x7e {
			return fmt.Errorf("the command line has byte %#02x at %d: only printable ASCII is accepted", c, at)
		}
	}
	return nil
}
