// Package warden is the process beside each agent that owns what is private to it: the descriptor of its notifications (package
// broker decides them), the key whose possession its visas confirm, the current visa, and the freeze at the visa's end.
//
// It is started by `raypher run` (package launch), detached, in a session of its own, as the agent's user and without
// capabilities. It speaks for the agent to raypherd and survives raypherd: what was granted stays in force until the visa
// ends. When the warden dies, nothing that it decided is open any more: the kernel answers notified calls with ENOSYS, and
// raypherd ends the agent.
package warden
