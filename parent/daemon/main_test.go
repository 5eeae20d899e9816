package daemon

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/attend"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
	"github.com/raypher/raypher/visa"
)

// The test binary plays three parts: the tests; a warden, which must be a process of its own because raypherd knows it by
// its pid; and an agent that asks raypherd.
func TestMain(m *testing.M) {
	switch os.Getenv("RAYPHER_TEST_PART") {
	case "warden":
		if err := playWarden(); err != nil {
			say(said{Error: err.Error()})
			os.Exit(1)
		}
	case "agent":
		if err := playAgent(); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	default:
		code := m.Run()
		if built != "" {
			os.RemoveAll(built)
		}
		os.Exit(code)
	}
}

// order is what a test tells its warden, one JSON line each; the first one has a Launch.
type order struct {
	Launch   *attend.Launch
	Script   string // for /bin/sh, which is the agent
	Socket   string
	Started  bool
	Report   []byte
	Reattach bool // connect again as if the connection had broken
	Quit     bool
	Program  string   // what raypherd hashes; empty: the shell
	Gains    bool     // the runner takes nothing of its floor: it may gain rights
	Lie      bool     // with Reattach: show another secret
	Ask      []string // address and question, asked by the warden's own process
}

// said is what a warden tells its test, one JSON line each.
type said struct {
	Expected *attend.Terms
	Granted  *attend.Granted
	Message  string // kind of any other message
	Renewed  int64  // boot time
	Verdict  []byte
	Error    string
	Runner   int
	Agent    string // a line that the agent printed
	Narrowed []byte // canonical permit
}

func say(s said) {
	line, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	os.Stdout.Write(append(line, '\n'))
}

// playWarden starts a runner, has raypherd make an agent of it, and lets it go.
func playWarden() error {
	orders := json.NewDecoder(os.Stdin)
	var first order
	if err := orders.Decode(&first); err != nil {
		return err
	}
	runner := exec.Command("/bin/sh", "-c", "read go || exit 1; "+first.Script)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	runner.Env = append(os.Environ(), "RAYPHER_TEST_PART=agent", "ASK="+self)
	if first.Program == "" {
		first.Program = "/bin/sh"
	}
	program, err := unix.Open(first.Program, unix.O_PATH|unix.O_CLOEXEC, 0) // as package launch does
	if err != nil {
		return err
	}
	runner.ExtraFiles = []*os.File{os.NewFile(uintptr(program), first.Program)}
	in, err := runner.StdinPipe()
	if err != nil {
		return err
	}
	out, err := runner.StdoutPipe()
	if err != nil {
		return err
	}
	if !first.Gains {
		runtime.LockOSThread() // the runner is started by this thread
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return err
		}
	}
	if err := runner.Start(); err != nil {
		return err
	}
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			say(said{Agent: lines.Text()})
		}
		runner.Wait()
	}()
	say(said{Runner: runner.Process.Pid})
	if first.Launch.RunnerPID == 0 {
		first.Launch.RunnerPID = int32(runner.Process.Pid)
	}
	first.Launch.ProgramFD = 3
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if first.Launch.ConfirmationKey, err = visa.ConfirmationKey(&key.PublicKey); err != nil {
		return err
	}
	w := &testWarden{first: first}
	if err := w.attend(&attend.WardenMessage{Launch: first.Launch}); err != nil {
		return err
	}
	for {
		var o order
		if err := orders.Decode(&o); err != nil {
			time.Sleep(time.Hour) // the test ends us
		}
		if o.Started {
			fmt.Fprintln(in, "go")
		}
		if err := w.obey(o); err != nil || o.Quit {
			return err
		}
	}
}

type testWarden struct {
	first   order
	session *attend.Session
	id      string
	secret  []byte
}

func (w *testWarden) attend(m *attend.WardenMessage) error {
	session, err := attend.Dial(context.Background(), w.first.Socket)
	if err != nil {
		return err
	}
	w.session = session
	if err := session.Send(m); err != nil {
		return err
	}
	reply, err := session.Recv()
	if err == nil && reply.Expected != nil {
		say(said{Expected: reply.Expected})
		reply, err = session.Recv()
	}
	if err != nil {
		return err
	}
	if reply.Refused != nil {
		return errors.New(reply.Refused.Reason)
	}
	if reply.Granted == nil {
		return fmt.Errorf("first message %v", reply)
	}
	w.id = reply.Granted.AgentID
	if reply.Granted.ReattachSecret != nil {
		w.secret = reply.Granted.ReattachSecret
	}
	say(said{Granted: reply.Granted})
	go w.listen(session)
	return nil
}

func (w *testWarden) listen(session *attend.Session) {
	for {
		m, err := session.Recv()
		if err == nil && m.Refused != nil {
			err = errors.New(m.Refused.Reason)
		}
		if err != nil {
			say(said{Message: "stream ended", Error: err.Error()})
			return
		}
		switch {
		case m.Renewed != nil:
			say(said{Message: "renewed", Renewed: m.Renewed.ExpiresBoottimeNs})
		case m.Narrowed != nil:
			say(said{Message: "narrowed", Narrowed: m.Narrowed.Permit})
		case m.Seen != nil:
			say(said{Message: "seen", Verdict: m.Seen.Verdict})
		case m.End != nil:
			say(said{Message: "end", Error: m.End.Reason})
		}
	}
}

func (w *testWarden) obey(o order) error {
	switch {
	case o.Ask != nil:
		answer, err := ask(o.Ask)
		if err != nil {
			answer = "error: " + err.Error()
		}
		say(said{Message: "answer", Error: answer})
		return nil
	case o.Started:
		return w.session.Send(&attend.WardenMessage{Started: &attend.Started{}})
	case o.Report != nil:
		return w.session.Send(&attend.WardenMessage{Reported: &attend.Reported{Verdict: o.Report}})
	case o.Reattach:
		w.session.Close()
		secret := w.secret
		if o.Lie {
			secret = []byte("guessed")
		}
		return w.attend(&attend.WardenMessage{Reattach: &attend.Reattach{
			AgentID: w.id, ConfirmationKey: w.first.Launch.ConfirmationKey, Secret: secret,
		}})
	}
	return nil
}

// playAgent runs inside an agent and prints what comes of a question.
func playAgent() error {
	answer, err := ask(os.Args[1:])
	if err != nil {
		return err
	}
	fmt.Println(answer)
	return nil
}

// ask asks raypherd: address, question, and what belongs to it.
func ask(q []string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if q[1] == "connect" {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", q[0])
		if err != nil {
			return "", err
		}
		return "connected", conn.Close()
	}
	if q[1] == "mutual" {
		return mutual(ctx, q[0], q[2])
	}
	if q[1] == "memory" || q[1] == "descriptor" {
		return askRelay(q)
	}
	if q[1] == "launch" {
		return "launched an agent", launch(ctx, q[0])
	}
	conn, err := dial(q[0])
	if err != nil {
		return "", err
	}
	defer conn.Close()
	switch q[1] {
	case "whoami":
		id, err := parentv1.NewAgentClient(conn).Whoami(ctx, &parentv1.WhoamiRequest{})
		return "i am " + id.GetAgentId(), err
	case "narrow", "visa":
		reply, err := parentv1.NewAgentClient(conn).RequestVisa(ctx, &parentv1.RequestVisaRequest{
			Intent: []byte(q[2]), GuardFollows: q[1] == "narrow",
		})
		return "permit " + string(reply.GetPermit()), err
	case "status":
		_, err := parentv1.NewOperatorClient(conn).Status(ctx, &parentv1.StatusRequest{})
		return "operated raypherd", err
	case "answer":
		_, err := parentv1.NewOperatorClient(conn).Answer(ctx, &parentv1.AnswerRequest{Id: "some-1", Approve: true})
		return "answered a question", err
	}
	return "", fmt.Errorf("what is %q?", q[1])
}

// launch asks for an agent.
func launch(ctx context.Context, socket string) error {
	session, err := attend.Dial(ctx, socket)
	if err != nil {
		return err
	}
	defer session.Close()
	return begin(session, &attend.WardenMessage{Launch: &attend.Launch{RunnerPID: int32(os.Getppid())}})
}

// begin sends the first message of a session. The error is what was answered, unless that is a grant.
func begin(session *attend.Session, first *attend.WardenMessage) error {
	if err := session.Send(first); err != nil {
		return err
	}
	answer, err := session.Recv()
	for err == nil && answer.Expected != nil {
		answer, err = session.Recv()
	}
	switch {
	case err != nil:
		return err
	case answer.Refused != nil:
		return errors.New(answer.Refused.Reason)
	}
	return nil
}

// dial connects to a path or an address.
func dial(address string) (*grpc.ClientConn, error) {
	if strings.HasPrefix(address, "/") {
		address = "unix:" + address
	} else if _, _, err := net.SplitHostPort(address); err != nil {
		return nil, err
	}
	return grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// reported is a verdict as a warden sends it.
func reported(target string) []byte {
	encoded, err := journal.EncodeVerdict(journal.Verdict{
		Time: time.Now().UnixNano(), AgentID: "whatever the warden says", Decision: journal.Block,
		Layer: "broker", Operation: "open-read", Target: target, Errno: 13,
	})
	if err != nil {
		panic(err)
	}
	return encoded
}
