// Package launch is `raypher run`: it starts an agent under the guard and becomes it.
//
// The runner (this process) finds the program, starts the agent's warden beside itself, hands it the launch, and waits for what
// raypherd grants. Then it takes its floor (package floor), hands the notifications to the warden, and executes the program in
// place: pid, terminal, job control and exit status are the program's own, and no process stands between the caller and it.
//
// The program is never executed unguarded: whatever fails before ends the runner with a Failure.
package launch
