// Package doctor looks at a host and says in words whether the guard can run on it, what it will hold and what it will not, and
// how to mend what is missing.
//
// Look asks the kernel and changes nothing that outlives the call. Interpret turns what it found into a Report and touches
// nothing. Explain gives raypherd the same words for the errors that end it.
package doctor

// Status is the outcome of one check.
type Status string

// The outcomes. A host with a Fail cannot run the guard.
const (
	OK   Status = "ok"
	Info Status = "info" // nothing to do, but good to know; also: could not be looked at
	Warn Status = "warn" // the guard runs, and holds less or costs more
	Fail Status = "fail" // the guard does not run
)

// Check is one line of the report.
type Check struct {
	Name        string `json:"name"`
	Status      Status `json:"status"`
	Found       string `json:"found"`
	Consequence string `json:"consequence,omitempty"` // what follows for agents
	Fix         string `json:"fix,omitempty"`         // what to do, empty where nothing is to be done
}

// Report is everything about one host.
type Report struct {
	Checks   []Check `json:"checks"`
	CanRun   bool    `json:"can_run"`  // no check failed
	Complete bool    `json:"complete"` // everything could be looked at
	Backend  string  `json:"backend"`  // what decides about files and programs: lsm or broker
	Tier     string  `json:"tier"`     // what vouches for visas: software, or what a running daemon says
	Holds    []Class `json:"holds"`    // what the backend holds, by the classes of the conformance table
}

// Interpret says what the findings mean.
func Interpret(f *Findings) *Report {
	r := &Report{CanRun: true, Complete: f.privileged(), Backend: backend(f), Tier: tier(f)}
	for _, check := range []func(*Findings) Check{
		checkKernel, checkPrivileges, checkContainer,
		checkBTF, checkBPFLSM, checkLandlock, checkNotification, checkYama,
		checkCgroup2, checkController("memory", "max_memory_mb"), checkController("pids", "max_processes"), checkCgroupControls,
		checkCgroupPrograms, checkConnectUnix, checkTCX, checkXDP, checkRingBuffer, checkMemlock,
		checkBPFFS, checkTracefs, checkDebugfs,
		checkClock, checkTimestamps, checkEntropy, checkDisk, checkIPv6,
		checkGroup, checkEnclaveUser, checkDaemon, checkEnclave,
	} {
		c := check(f)
		if c.Status == Fail {
			r.CanRun = false
		}
		r.Checks = append(r.Checks, c)
	}
	r.Holds = classes(r.Backend)
	r.Checks = append(r.Checks, checkFleet(f)...)
	r.Checks = append(r.Checks, checkTPM(f)...) // never Fail: the guard runs without one
	return r
}

// backend names what decides about files and programs: what the raypherd that runs says, else what one would take here.
func backend(f *Findings) string {
	if s := f.Daemon.Status; s != nil && s.GetBackend() != "" {
		return s.GetBackend()
	}
	if f.BPFLSM.Tried && f.BPFLSM.Err == nil && f.BPFLSMRuns {
		return "lsm"
	}
	return "broker"
}

// tier names what signs visas: the enclave that runs, else what raypherd would start here.
func tier(f *Findings) string {
	if s := f.Daemon.Status; s != nil && s.GetTier() != "" {
		return s.GetTier()
	}
	return "software"
}
