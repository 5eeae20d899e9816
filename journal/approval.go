package journal

import (
	"errors"
	"fmt"

	"github.com/raypher/raypher/internal/strictcbor"
)

// Approval is the payload of an entry of TypeApproval: what a person answered when a call of an agent needed one, or that nobody
// did in time. It is on record before the call goes on. Who answered is asserted by the parent, which knows it from the kernel.
type Approval struct {
	Time     int64    `cbor:"1,keyasint" json:"time"`  // UnixNano of the answer
	Asked    int64    `cbor:"2,keyasint" json:"asked"` // UnixNano of the question
	AgentID  string   `cbor:"3,keyasint" json:"agent_id"`
	Subject  string   `cbor:"4,keyasint" json:"subject"` // SPIFFE ID
	VisaID   []byte   `cbor:"5,keyasint,omitempty" json:"visa_id,omitempty"`
	Question Question `cbor:"6,keyasint" json:"question"`
	Decision string   `cbor:"7,keyasint" json:"decision"`          // approve | deny | timeout
	Scope    string   `cbor:"8,keyasint" json:"scope"`             // once | run | duration; a refusal is once
	Seconds  uint64   `cbor:"9,keyasint,omitempty" json:"seconds"` // of scope duration
	Proposed bool     `cbor:"10,keyasint,omitempty" json:"proposed"`
	Who      *Person  `cbor:"11,keyasint,omitempty" json:"who,omitempty"` // nil at a time-out
}

// Question is what a person is asked: whether an agent may do this. The strings are what the guard saw, resolved.
type Question struct {
	Operation string `cbor:"1,keyasint" json:"operation"` // as in a verdict
	Target    string `cbor:"2,keyasint" json:"target"`
	Other     string `cbor:"3,keyasint,omitempty" json:"other,omitempty"` // the new path of a rename, the object that a link would name, the name behind an address, the mode, owner or length that is set
	Rule      string `cbor:"4,keyasint,omitempty" json:"rule"`            // that asks
	PID       uint32 `cbor:"5,keyasint" json:"pid"`
	Comm      string `cbor:"6,keyasint" json:"comm"` // task name, informative only
}

// Person is who answered.
type Person struct {
	UID  uint32 `cbor:"1,keyasint" json:"uid"`
	User string `cbor:"2,keyasint" json:"user"`
	PID  uint32 `cbor:"3,keyasint" json:"pid"`
}

// The decisions of an approval.
const (
	Approve = "approve"
	Deny    = "deny"
	Timeout = "timeout"
)

// The scopes of an approval.
const (
	ScopeOnce     = "once"     // the calls that waited
	ScopeRun      = "run"      // equal calls too, as long as the agent lives
	ScopeDuration = "duration" // equal calls too, for Seconds
)

// Bounds in bytes.
const (
	maxQuestionSize = 2*MaxTarget + 3*MaxVerdictText + 64
	maxApprovalSize = maxQuestionSize + 6*MaxVerdictText + 256
)

// EncodeQuestion returns a question as a warden sends it. As in a verdict, strings are made valid UTF-8 and cut to their bounds.
func EncodeQuestion(q Question) ([]byte, error) {
	for _, s := range q.texts() {
		*s.text = cut(*s.text, s.limit)
	}
	if err := q.check(); err != nil {
		return nil, fmt.Errorf("question: %w", err)
	}
	return strictcbor.Encode(&q), nil
}

// DecodeQuestion reads a question from outside.
func DecodeQuestion(data []byte) (Question, error) {
	var q Question
	err := strictcbor.Decode(data, maxQuestionSize, &q)
	if err == nil {
		err = q.check()
	}
	if err != nil {
		return Question{}, fmt.Errorf("question: %w", err)
	}
	return q, nil
}

// Encode returns the payload.
func (a *Approval) Encode() ([]byte, error) {
	if err := a.check(); err != nil {
		return nil, fmt.Errorf("approval: %w", err)
	}
	return strictcbor.Encode(a), nil
}

// DecodeApproval reads the payload of an entry of TypeApproval, from outside.
func DecodeApproval(payload []byte) (*Approval, error) {
	var a Approval
	err := strictcbor.Decode(payload, maxApprovalSize, &a)
	if err == nil {
		err = a.check()
	}
	if err != nil {
		return nil, fmt.Errorf("approval: %w", err)
	}
	return &a, nil
}

func (q *Question) texts() []boundedText {
	return []boundedText{
		{"operation", &q.Operation, MaxVerdictText}, {"target", &q.Target, MaxTarget}, {"other", &q.Other, MaxTarget},
		{"rule", &q.Rule, MaxVerdictText}, {"comm", &q.Comm, MaxVerdictText},
	}
}

func (q *Question) check() error {
	for _, s := range q.texts() {
		if len(*s.text) > s.limit {
			return fmt.Errorf("%s: %d bytes, the limit is %d", s.name, len(*s.text), s.limit)
		}
	}
	if q.Operation == "" || q.Target == "" {
		return errors.New("no operation or no target")
	}
	return nil
}

func (a *Approval) check() error {
	if err := a.Question.check(); err != nil {
		return err
	}
	if a.AgentID == "" || len(a.AgentID) > MaxVerdictText || len(a.Subject) > MaxVerdictText || len(a.VisaID) > MaxNonceSize {
		return errors.New("no agent, or one whose id, subject or visa is too long")
	}
	if a.Who != nil && len(a.Who.User) > MaxVerdictText {
		return fmt.Errorf("user: %d bytes, the limit is %d", len(a.Who.User), MaxVerdictText)
	}
	switch a.Decision {
	case Approve, Deny:
		if a.Who == nil {
			return errors.New("an answer of nobody")
		}
	case Timeout:
		if a.Who != nil {
			return errors.New("a time-out with somebody who answered")
		}
	default:
		return fmt.Errorf("decision %.32q is none of approve, deny, timeout", a.Decision)
	}
	if a.Decision != Approve && (a.Scope != ScopeOnce || a.Proposed) {
		return errors.New("a refusal that holds for more than the calls that waited")
	}
	switch a.Scope {
	case ScopeOnce, ScopeRun:
		if a.Seconds != 0 {
			return errors.New("seconds without the scope duration")
		}
	case ScopeDuration:
		if a.Seconds == 0 {
			return errors.New("the scope duration without seconds")
		}
	default:
		return fmt.Errorf("scope %.32q is none of once, run, duration", a.Scope)
	}
	return nil
}
