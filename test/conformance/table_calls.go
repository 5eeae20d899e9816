package conformance

import "errors"

// calls is what no agent may do, whatever it is granted in files.
var calls = Setting{
	Name: "calls",
	Policy: `
mode: enforce
filesystem: {read: [` + base + `, FOLDER/w/**], write: [FOLDER/w/**], exec: [PROGRAM]}
`,
	Furnish: func(w *World) error { return errors.Join(w.File("w/file"), w.Dir("w/mount")) },
	Sections: []Section{
		{"mounts and roots", mountCases}, {"namespaces", namespaceCases}, {"the kernel", kernelCases}, {"other processes", processCases},
		{"what reaches other programs by number", numberCases}, {"keys", keyCases}, {"io_uring and clone3", absentCases}, {"terminals", terminalCases},
	},
}

var mountCases = []Case{
	line("mount", action{"raw", "mount"}, "EPERM", "", "syscall mount"),
	line("umount2", action{"raw", "umount2"}, "EPERM", "", "syscall umount2"),
	line("pivot_root", action{"raw", "pivot_root"}, "EPERM", "", "syscall pivot_root"),
	line("chroot", action{"raw", "chroot"}, "EPERM", "", "syscall chroot"),
	line("open_tree", action{"raw", "open_tree"}, "EPERM", "", "syscall open_tree"),
	line("open_tree_attr", action{"raw", "open_tree_attr"}, "EPERM", "", "syscall open_tree_attr"),
	line("move_mount", action{"raw", "move_mount"}, "EPERM", "", "syscall move_mount"),
	line("fsopen", action{"raw", "fsopen"}, "EPERM", "", "syscall fsopen"),
	line("fsconfig", action{"raw", "fsconfig"}, "EPERM", "", "syscall fsconfig"),
	line("fsmount", action{"raw", "fsmount"}, "EPERM", "", "syscall fsmount"),
	line("fspick", action{"raw", "fspick"}, "EPERM", "", "syscall fspick"),
	line("mount_setattr", action{"raw", "mount_setattr"}, "EPERM", "", "syscall mount_setattr"),
	line("a bind mount", action{"raw", "mount", "s:/", "s:w/mount", "0", "4096", "0"}, "EPERM", "", "syscall mount"),
	line("cgroup2 of its own", action{"raw", "mount", "s:none", "s:w/mount", "s:cgroup2", "0", "0"}, "EPERM", "", "syscall mount"),
	line("a root of its own", action{"raw", "chroot", "s:w"}, "EPERM", "", "syscall chroot"),
}

var namespaceCases = []Case{
	line("unshare of mounts", action{"raw", "unshare", "0x20000"}, "EPERM", "", "syscall unshare"),
	line("unshare of cgroups", action{"raw", "unshare", "0x2000000"}, "EPERM", "", "syscall unshare"),
	line("unshare of UTS", action{"raw", "unshare", "0x4000000"}, "EPERM", "", "syscall unshare"),
	line("unshare of IPC", action{"raw", "unshare", "0x8000000"}, "EPERM", "", "syscall unshare"),
	line("unshare of users", action{"raw", "unshare", "0x10000000"}, "EPERM", "", "syscall unshare"),
	line("unshare of processes", action{"raw", "unshare", "0x20000000"}, "EPERM", "", "syscall unshare"),
	line("unshare of network", action{"raw", "unshare", "0x40000000"}, "EPERM", "", "syscall unshare"),
	line("unshare of time", action{"raw", "unshare", "0x80"}, "EPERM", "", "syscall unshare"),
	line("clone with mounts", action{"raw", "clone", "0x20011"}, "EPERM", "", "syscall clone"),
	line("clone with users", action{"raw", "clone", "0x10000011"}, "EPERM", "", "syscall clone"),
	line("clone with network", action{"raw", "clone", "0x40000011"}, "EPERM", "", "syscall clone"),
	line("clone with processes", action{"raw", "clone", "0x20000011"}, "EPERM", "", "syscall clone"),
	line("unshare of its own folder", action{"raw", "unshare", "0x200"}, "ok", "", ""),
}

var kernelCases = []Case{
	line("bpf", action{"raw", "bpf"}, "EPERM", "", "syscall bpf"),
	line("init_module", action{"raw", "init_module"}, "EPERM", "", "syscall init_module"),
	line("finit_module", action{"raw", "finit_module"}, "EPERM", "", "syscall finit_module"),
	line("delete_module", action{"raw", "delete_module"}, "EPERM", "", "syscall delete_module"),
	line("kexec_load", action{"raw", "kexec_load"}, "EPERM", "", "syscall kexec_load"),
	line("kexec_file_load", action{"raw", "kexec_file_load"}, "EPERM", "", "syscall kexec_file_load"),
	line("reboot", action{"raw", "reboot"}, "EPERM", "", "syscall reboot"),
	line("swapon", action{"raw", "swapon"}, "EPERM", "", "syscall swapon"),
	line("swapoff", action{"raw", "swapoff"}, "EPERM", "", "syscall swapoff"),
	line("acct", action{"raw", "acct"}, "EPERM", "", "syscall acct"),
	line("quotactl", action{"raw", "quotactl"}, "EPERM", "", "syscall quotactl"),
	line("quotactl_fd", action{"raw", "quotactl_fd"}, "EPERM", "", "syscall quotactl_fd"),
	line("iopl", action{"raw", "iopl"}, "EPERM", "", "syscall iopl"),
	line("ioperm", action{"raw", "ioperm"}, "EPERM", "", "syscall ioperm"),
	line("settimeofday", action{"raw", "settimeofday"}, "EPERM", "", "syscall settimeofday"),
	line("clock_settime", action{"raw", "clock_settime"}, "EPERM", "", "syscall clock_settime"),
	line("sethostname", action{"raw", "sethostname"}, "EPERM", "", "syscall sethostname"),
	line("setdomainname", action{"raw", "setdomainname"}, "EPERM", "", "syscall setdomainname"),
	line("lsm_set_self_attr", action{"raw", "lsm_set_self_attr"}, "EPERM", "", "syscall lsm_set_self_attr"),
	line("perf_event_open", action{"raw", "perf_event_open"}, "EPERM", "", "syscall perf_event_open"),
	line("userfaultfd", action{"raw", "userfaultfd"}, "EPERM", "", "syscall userfaultfd"),
	line("fanotify_init", action{"raw", "fanotify_init"}, "EPERM", "", "syscall fanotify_init"),
}

var processCases = []Case{
	line("ptrace", action{"raw", "ptrace"}, "EPERM", "", "syscall ptrace"),
	line("process_vm_readv", action{"raw", "process_vm_readv"}, "EPERM", "", "syscall process_vm_readv"),
	line("process_vm_writev", action{"raw", "process_vm_writev"}, "EPERM", "", "syscall process_vm_writev"),
	line("pidfd_getfd", action{"raw", "pidfd_getfd"}, "EPERM", "", "syscall pidfd_getfd"),
	line("process_madvise", action{"raw", "process_madvise"}, "EPERM", "", "syscall process_madvise"),
	line("kcmp", action{"raw", "kcmp"}, "EPERM", "", "syscall kcmp"),
	line("setns", action{"raw", "setns"}, "EPERM", "", "syscall setns"),
	line("attaching to another process", action{"raw", "ptrace", "16", "VICTIM"}, "EPERM", "", "syscall ptrace"),
	line("seizing another process", action{"raw", "ptrace", "0x4206", "VICTIM"}, "EPERM", "", "syscall ptrace"),
	line("being traced", action{"raw", "ptrace", "0"}, "EPERM", "", "syscall ptrace"),
	underLSM(outcome{"EPERM", "", "signal signal 0 to another's process | a process that is not the agent's"}, held612(line("a signal to another process", action{"raw", "kill", "VICTIM", "0"}, "EPERM", "", "signal process VICTIM | a process that is not the agent's"))),
	underLSM(outcome{"EPERM", "", "signal signal 9 to another's process | a process that is not the agent's"}, held612(line("ending another process", action{"raw", "kill", "VICTIM", "9"}, "EPERM", "", "signal process VICTIM | a process that is not the agent's"))),
	underLSM(outcome{"EPERM", "", "signal signal 19 to another's process | a process that is not the agent's"}, held612(line("stopping another process", action{"raw", "kill", "VICTIM", "19"}, "EPERM", "", "signal process VICTIM | a process that is not the agent's"))),
	held612(line("a signal to a thread of another", action{"raw", "tgkill", "VICTIM", "VICTIM", "19"}, "EPERM", "", "")),
	underLSM(outcome{"EPERM", "", "signal signal 19 to another's process | a process that is not the agent's"}, held612(line("a queued signal", action{"raw", "tkill", "VICTIM", "19"}, "EPERM", "", "signal process VICTIM | a process that is not the agent's"))),
	underLSM(outcome{"EPERM", "", ""}, held612(line("a signal by descriptor", action{"kill-pidfd", "VICTIM", "19"}, "EPERM", "", "signal process VICTIM | a process that is not the agent's"))),
	line("a signal to itself", action{"kill-self"}, "ok", "", ""),
	line("its own priority", action{"raw", "setpriority", "0", "0", "1"}, "ok", "", ""),
	line("another's priority", action{"raw", "setpriority", "0", "VICTIM", "19"}, "EPERM", "", "schedule process VICTIM | a process that is not the agent's"),
	line("the user's priority", action{"raw", "setpriority", "2", "0", "19"}, "EPERM", "", "schedule all processes of the user | a process that is not the agent's"),
	line("another's class", action{"raw", "sched_setscheduler", "VICTIM", "5", "z:8"}, "EPERM", "", "schedule process VICTIM | a process that is not the agent's"),
	line("another's parameters", action{"raw", "sched_setparam", "VICTIM", "z:8"}, "EPERM", "", "schedule process VICTIM | a process that is not the agent's"),
	line("another's processors", action{"raw", "sched_setaffinity", "VICTIM", "8", "b:0100000000000000"}, "EPERM", "", "schedule process VICTIM | a process that is not the agent's"),
	line("another's disk class", action{"raw", "ioprio_set", "1", "VICTIM", "0x6000"}, "EPERM", "", "schedule process VICTIM | a process that is not the agent's"),
	line("another's memory nodes", action{"raw", "migrate_pages", "VICTIM", "0", "0", "0"}, "EPERM", "", "schedule process VICTIM | a process that is not the agent's"),
	line("another's limits", action{"raw", "prlimit64", "VICTIM", "7", "z:16", "0"}, "EPERM", "", "syscall prlimit64"),
	line("its own limits", action{"raw", "prlimit64", "0", "7", "0", "z:16"}, "ok", "", ""),
	line("hiding from its warden", action{"raw", "prctl", "4", "0"}, "EPERM", "", ""),
	line("being seen", action{"raw", "prctl", "4", "1"}, "ok", "", ""),
}

var numberCases = []Case{
	line("shmget", action{"raw", "shmget"}, "EPERM", "", "syscall shmget"),
	line("shmat", action{"raw", "shmat"}, "EPERM", "", "syscall shmat"),
	line("shmctl", action{"raw", "shmctl"}, "EPERM", "", "syscall shmctl"),
	line("msgget", action{"raw", "msgget"}, "EPERM", "", "syscall msgget"),
	line("msgsnd", action{"raw", "msgsnd"}, "EPERM", "", "syscall msgsnd"),
	line("msgrcv", action{"raw", "msgrcv"}, "EPERM", "", "syscall msgrcv"),
	line("msgctl", action{"raw", "msgctl"}, "EPERM", "", "syscall msgctl"),
	line("semget", action{"raw", "semget"}, "EPERM", "", "syscall semget"),
	line("semop", action{"raw", "semop"}, "EPERM", "", "syscall semop"),
	line("semtimedop", action{"raw", "semtimedop"}, "EPERM", "", "syscall semtimedop"),
	line("semctl", action{"raw", "semctl"}, "EPERM", "", "syscall semctl"),
	line("mq_open", action{"raw", "mq_open"}, "EPERM", "", "syscall mq_open"),
	line("mq_unlink", action{"raw", "mq_unlink"}, "EPERM", "", "syscall mq_unlink"),
}

var keyCases = []Case{
	line("keyctl", action{"raw", "keyctl"}, "EPERM", "", "syscall keyctl"),
	line("add_key", action{"raw", "add_key"}, "EPERM", "", "syscall add_key"),
	line("request_key", action{"raw", "request_key"}, "EPERM", "", "syscall request_key"),
}

var absentCases = []Case{
	line("io_uring_setup", action{"raw", "io_uring_setup"}, "ENOSYS", "", "log syscall io_uring_setup | answered ENOSYS, as by a kernel without it"),
	line("io_uring_enter", action{"raw", "io_uring_enter"}, "ENOSYS", "", "log syscall io_uring_enter | answered ENOSYS, as by a kernel without it"),
	line("io_uring_register", action{"raw", "io_uring_register"}, "ENOSYS", "", "log syscall io_uring_register | answered ENOSYS, as by a kernel without it"),
	line("clone3", action{"raw", "clone3", "z:88", "88"}, "ENOSYS", "", ""),
	on("amd64", line("a call of x32", action{"call", "0x40000027"}, "ENOSYS", "", "")),
	on("amd64", line("an open of x32", action{"call", "0x40000002", "0", "0", "0"}, "ENOSYS", "", "")),
}

var terminalCases = []Case{
	line("terminal injection", action{"ioctl", "0x5412"}, "EPERM", "", "ioctl TIOCSTI"),
	line("terminal injection with high bits", action{"ioctl", "0x100005412"}, "EPERM", "", "ioctl TIOCSTI"),
	line("console paste", action{"ioctl", "0x541c"}, "EPERM", "", "ioctl TIOCLINUX"),
	line("console paste with high bits", action{"ioctl", "0x7fff0000541c"}, "EPERM", "", "ioctl TIOCLINUX"),
	line("another request", action{"raw", "ioctl", "fd:/dev/null", "0x5401", "z:64"}, "ENOTTY", "", ""),
}
