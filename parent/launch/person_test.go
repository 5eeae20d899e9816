package launch

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/attend"
)

// deskSuffix is the socket at which a test answers questions. Without it the warden of a test is told no at once.
const deskSuffix = ".desk"

// person is the way from the warden's session to the test that answers.
type person struct {
	conn net.Conn
	send *json.Encoder
}

// ask passes a question on to the test.
func (s *fileSession) ask(m *attend.WardenMessage) error {
	if s.person == nil {
		conn, err := net.Dial("unix", s.file.Name()+deskSuffix)
		if err != nil {
			if m.Asked != nil {
				go s.answer(&attend.Answered{ID: m.Asked.ID})
			}
			return nil
		}
		s.person = &person{conn, json.NewEncoder(conn)}
		go func() {
			for answers := json.NewDecoder(conn); ; {
				var a attend.Answered
				if answers.Decode(&a) != nil {
					return
				}
				s.answer(&a)
			}
		}()
	}
	return s.person.send.Encode(m)
}

// answer is dropped when the session is over.
func (s *fileSession) answer(a *attend.Answered) {
	defer func() { _ = recover() }()
	s.answers <- &attend.ParentMessage{Answered: a}
}

// desk is where a test answers the questions of one agent.
type desk struct {
	t         testing.TB
	questions chan asked
	withdrawn chan uint64

	mutex sync.Mutex
	conn  *json.Encoder
}

type asked struct {
	attend.Asked
	journal.Question
}

// openDesk lets the test answer. It must be called before the agent starts.
func (a *agent) openDesk() *desk {
	a.t.Helper()
	path := a.verdicts + deskSuffix
	l, err := net.Listen("unix", path)
	a.must(err)
	a.must(os.Chmod(path, 0o777))
	a.t.Cleanup(func() { l.Close() })
	d := &desk{t: a.t, questions: make(chan asked, 1024), withdrawn: make(chan uint64, 1024)}
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		d.mutex.Lock()
		d.conn = json.NewEncoder(conn)
		d.mutex.Unlock()
		for messages := json.NewDecoder(conn); ; {
			var m attend.WardenMessage
			if messages.Decode(&m) != nil {
				return
			}
			if m.Withdrawn != nil {
				d.withdrawn <- m.Withdrawn.ID
				continue
			}
			q, err := journal.DecodeQuestion(m.Asked.Question)
			if err != nil {
				a.t.Error(err)
			}
			d.questions <- asked{*m.Asked, q}
		}
	}()
	return d
}

// next waits for a question.
func (d *desk) next() asked {
	d.t.Helper()
	select {
	case q := <-d.questions:
		return q
	case <-time.After(60 * time.Second):
		d.t.Fatal("nothing was asked")
		return asked{}
	}
}

func (d *desk) answer(q asked, approved bool, until int64) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if err := d.conn.Encode(attend.Answered{ID: q.ID, Approved: approved, UntilBoottimeNs: until}); err != nil {
		d.t.Error(err)
	}
}

// silent fails the test if something is asked that should not be.
func (d *desk) silent() {
	d.t.Helper()
	select {
	case q := <-d.questions:
		d.t.Errorf("also asked: %+v", q.Question)
	default:
	}
}

// short is a question as tables have it, with paths relative to the agent's folder.
func (q asked) short(a *agent) string {
	text := q.Operation + " " + q.Target
	if q.Other != "" {
		text += " -> " + q.Other
	}
	return strings.ReplaceAll(text, filepath.Clean(a.folder)+"/", "")
}
