// Package floor is what `raypher run` does to itself before it executes an agent: what no later mistake, race or fault can
// undo. It gives up all capabilities, forbids new privileges, takes a Landlock domain compiled from the permit and installs
// a seccomp filter whose notifications go to the agent's warden (package broker).
//
// The floor is never wider than the permit, with the exceptions that Compile's comment lists. What the permit grants beyond
// it (globs, paths with something denied inside, files that do not exist yet) is opened by the warden and injected.
//
// Everything here acts on the calling thread only. The caller locks its goroutine to its thread, takes the floor and
// executes the agent from that thread: execve ends the others, so the whole agent is below the floor.
package floor
