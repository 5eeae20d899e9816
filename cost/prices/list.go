package prices

import (
	"crypto/sha256"
	_ "embed"
	"fmt"
	"net/url"
	"time"

	"github.com/raypher/raypher/internal/strictyaml"
)

// MaxList bounds a price list, in bytes.
const MaxList = 1 << 20

//go:embed snapshot.yaml
var snapshot []byte

// List is a price list. It is immutable.
type List struct {
	Models []Model
	Hash   [sha256.Size]byte // of the file, as it is
}

// Model is what one model costs, and who says so.
type Model struct {
	Provider string // as the kinds of cost_control.yaml
	Name     string
	Rates
	Source string    // URL
	Date   time.Time // the earliest day that the source can be of
}

// Snapshot is the list that ships with the project.
func Snapshot(parse func(string) (uint64, error)) (*List, error) {
	return Parse("snapshot.yaml", snapshot, parse)
}

// Parse reads a price list: a list of models, each with provider, model, source, date and rates. It is as strict as every file of this
// project; the error is of type strictyaml.Errors. parse reads dollars into micro-dollars.
func Parse(name string, data []byte, parse func(string) (uint64, error)) (*List, error) {
	r, document, err := strictyaml.Load(strictyaml.File{Name: name, What: "price list", Empty: "write a list of models", Limit: MaxList}, data)
	if err != nil {
		return nil, err
	}
	list := &List{Hash: sha256.Sum256(data)}
	seen := map[[2]string]bool{}
	r.Each("", document, func(at strictyaml.Place, n *strictyaml.Node) {
		var m Model
		var date string
		m.Rates = ReadRates(r, at, n, parse, map[string]func(strictyaml.Place, *strictyaml.Node){
			"provider": func(at strictyaml.Place, n *strictyaml.Node) { r.Text(at, n, &m.Provider) },
			"model":    func(at strictyaml.Place, n *strictyaml.Node) { r.Text(at, n, &m.Name) },
			"source":   func(at strictyaml.Place, n *strictyaml.Node) { r.Text(at, n, &m.Source) },
			"date":     func(at strictyaml.Place, n *strictyaml.Node) { r.Text(at, n, &date) },
		})
		u, err := url.Parse(m.Source)
		if m.Date, _ = time.Parse(time.DateOnly, date); m.Date.IsZero() || err != nil || u.Scheme != "https" || m.Provider == "" || m.Name == "" {
			r.Report(at, strictyaml.Faultf(`write provider, model, source (an https URL) and date (like "2026-11-05")`, "a price that nobody can check"))
		}
		if id := [2]string{m.Provider, m.Name}; seen[id] {
			r.Report(at, strictyaml.Faultf("keep one of them", "%s of %s stands twice", m.Name, m.Provider))
		} else {
			seen[id] = true
		}
		list.Models = append(list.Models, m)
	})
	if err := r.Err(); err != nil {
		return nil, err
	}
	return list, nil
}

// Find returns a model by its exact name. One that is not there has no price: nothing is guessed from a name that is like it.
func (l *List) Find(provider, name string) (*Model, error) {
	for i := range l.Models {
		if m := &l.Models[i]; m.Provider == provider && m.Name == name {
			return m, nil
		}
	}
	return nil, fmt.Errorf("model %.80q of %s has no price: write it under models in cost_control.yaml", name, provider)
}
