package launch

import (
	"bytes"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/attend"
	"github.com/raypher/raypher/parent/instance"
	"github.com/raypher/raypher/policy"
)

// namespaceVariable says that this process was started anew in namespaces of its own. The agent does not get it.
const namespaceVariable = "RAYPHER_IN_NAMESPACE"

// unshareProgram is util-linux's. Who is not root may make a network namespace only as the root of a user namespace, and a process
// enters one of these only while it has a single thread, which no program in Go ever has.
const unshareProgram = "unshare"

// enterNamespace starts this program anew in a user namespace and a network namespace, where the policy isolates and this is not root.
// In the user namespace this user is itself and nobody else is anybody: nothing is gained in it. It returns when nothing of that is
// needed.
func (r *runner) enterNamespace() error {
	if os.Getenv(namespaceVariable) != "" {
		return nil
	}
	if os.Geteuid() == 0 || !r.asksToIsolate() {
		return nil
	}
	path, err := exec.LookPath(unshareProgram)
	if err != nil {
		return guardFailure("network.isolate: %s is not in PATH: install util-linux, or start the agent as root", unshareProgram)
	}
	self, err := os.Executable()
	if err != nil {
		return guardFailure("network.isolate: %v", err)
	}
	how := []string{unshareProgram, "--user", "--map-current-user", "--net", "--"}
	if output, err := exec.Command(path, append(how[1:], "true")...).CombinedOutput(); err != nil {
		return guardFailure("network.isolate: this host lets only root make network namespaces (%s): allow user namespaces to this user "+
			"(user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns), or start the agent as root", lastLine(string(output)))
	}
	argv := append(append(how, self), os.Args[1:]...)
	err = unix.Exec(path, argv, append(os.Environ(), namespaceVariable+"=1"))
	return guardFailure("network.isolate: %s: %v", path, err)
}

// asksToIsolate reads no more of the policy than whether it isolates. What is wrong with it is said by who decides.
func (r *runner) asksToIsolate() bool {
	path := r.options.PolicyPath
	if strings.HasPrefix(path, attend.FleetPolicy) {
		return false
	}
	if path == "" {
		path = instance.Policy
	}
	source, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(source, []byte("isolate")) {
		return false
	}
	p, err := policy.Parse(path, source)
	return err == nil && p.Network != nil && p.Network.Isolate
}

// isolate gives this thread, which becomes the program, a network namespace of its own: empty, until raypherd wires it.
func (r *runner) isolate() error {
	n := r.ready.permit.Network
	if n == nil || !n.Isolate || os.Getenv(namespaceVariable) != "" {
		return nil
	}
	if os.Geteuid() != 0 {
		return guardFailure("network.isolate: the host's policy or ceiling demands it: say `isolate: true` in the `network` section of the " +
			"policy that this run names, or start the agent as root")
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return guardFailure("network.isolate: a network namespace: %v: this kernel or container does not let root make one", err)
	}
	return nil
}
