package conformance

import (
	"errors"
	"os"
)

// programs is a policy of programs: granted by path and by glob, scripts, and a tree in which the agent may write.
var programs = Setting{
	Name: "programs",
	Policy: `
mode: enforce
filesystem:
  read: [` + base + `, FOLDER/bin/**, FOLDER/w/**]
  write: [FOLDER/w/**]
  exec: [PROGRAM, FOLDER/bin/yes, "FOLDER/bin/glob-*", FOLDER/bin/script, FOLDER/bin/badscript, FOLDER/bin/chain, FOLDER/bin/badchain, FOLDER/bin/noperm,
    FOLDER/bin/gone, FOLDER/bin/text, FOLDER/bin/tree/**]
  deny: [FOLDER/bin/tree/denied]
`,
	Furnish: func(w *World) error {
		return errors.Join(
			w.Copy("bin/yes", "bin/glob-1", "bin/no", "bin/noperm", "bin/tree/in", "bin/tree/denied"), w.File("w/file", "bin/text"), w.Dir("w"),
			w.Script("bin/script", w.Program+" mark"), w.Script("bin/badscript", w.Path("bin/no")), w.Script("bin/gone", "/nothing"),
			w.Script("bin/chain", w.Path("bin/script")), w.Script("bin/badchain", w.Path("bin/badscript")), w.Script("w/ownscript", w.Program),
			w.Link("../bin/no", "w/tono"), w.Link("../bin/yes", "w/toyes"),
			os.Chmod(w.Path("bin/noperm"), 0o644), os.Chmod(w.Path("bin/text"), 0o755),
		)
	},
	Sections: []Section{{"programs", programCases}, {"scripts", scriptCases}, {"files in memory, copies and descriptors", copyCases}, {"mapping for execution", mapCases}},
}

var programCases = []Case{
	line("exec of a granted program", action{"exec", "FOLDER/bin/yes", "mark", "w/ran1"}, "ok", "+w/ran1", ""),
	line("exec by glob", action{"exec", "FOLDER/bin/glob-1", "mark", "w/ran2"}, "ok", "+w/ran2", ""),
	line("exec in a tree", action{"exec", "FOLDER/bin/tree/in", "mark", "w/ran3"}, "ok", "+w/ran3", ""),
	line("exec of itself", action{"exec", "/proc/self/exe", "mark", "w/ran4"}, "ok", "+w/ran4", ""),
	line("exec through a link", action{"exec", "FOLDER/w/toyes", "mark", "w/ran5"}, "ok", "+w/ran5", ""),
	line("exec of what is not granted", action{"exec", "FOLDER/bin/no", "mark", "w/bad"}, "EACCES", "", "exec bin/no"),
	line("exec of what is denied in a tree", action{"exec", "FOLDER/bin/tree/denied", "mark", "w/bad"}, "EACCES", "", "exec bin/tree/denied | bin/tree/denied"),
	line("exec outside", action{"exec", "/usr/bin/true"}, "EACCES", "", "exec /usr/bin/true"),
	line("exec through a link to what is not granted", action{"exec", "FOLDER/w/tono", "mark", "w/bad"}, "EACCES", "", "exec bin/no"),
	line("exec through ..", action{"exec", "FOLDER/bin/tree/../no", "mark", "w/bad"}, "EACCES", "", "exec bin/no"),
	line("exec through /proc/self/root", action{"exec", "/proc/self/rootFOLDER/bin/no", "mark", "w/bad"}, "EACCES", "", "exec bin/no"),
	line("exec through /proc/self/cwd", action{"exec", "/proc/self/cwd/bin/no", "mark", "w/bad"}, "EACCES", "", "exec bin/no"),
	line("execve(2) in place", action{"in-child", "become", "FOLDER/bin/no", "mark", "w/bad"}, "EACCES", "", "exec bin/no"),
	line("execve(2) in place of a granted program", action{"in-child", "become", "FOLDER/bin/yes", "mark", "w/ran6"}, "ok", "+w/ran6", ""),
	line("exec of a file without the right to it", action{"exec", "FOLDER/bin/noperm", "mark", "w/bad"}, "EACCES", "", ""),
	line("exec of a folder", action{"in-child", "become", "FOLDER/w"}, "EACCES", "", ""),
	line("exec of nothing", action{"in-child", "become", "FOLDER/bin/nothing"}, "ENOENT", "", ""),
	line("exec of a text", action{"in-child", "become", "FOLDER/bin/text"}, "ENOEXEC", "", ""),
	line("execve with a bad address", action{"raw", "execve", "16", "argv:x", "0"}, "EFAULT", "", ""),
}

var scriptCases = []Case{
	line("exec of a script whose interpreter is granted", action{"exec", "FOLDER/bin/script", "w/x"}, "exit 1", "", "open-write bin/script"),
	line("exec of a script whose interpreter is not", action{"exec", "FOLDER/bin/badscript"}, "EACCES", "", "exec bin/no"),
	line("exec of a script that no rule grants", action{"exec", "FOLDER/w/ownscript", "mark", "w/bad"}, "EACCES", "", "exec w/ownscript"),
	line("exec of a script of a script", action{"exec", "FOLDER/bin/chain"}, "exit 1", "", "open-write bin/script"),
	line("exec of a script of a script whose interpreter is not granted", action{"exec", "FOLDER/bin/badchain"}, "EACCES", "", "exec bin/no"),
	line("exec of a script whose interpreter does not exist", action{"exec", "FOLDER/bin/gone"}, "ENOENT", "", ""),
}

var copyCases = []Case{
	underLSM(outcome{"EACCES", "", "exec a file without a path | a program without a path"}, line("a file in memory", action{"in-child", "become-memory", "0", "FOLDER/bin/yes", "mark", "w/bad"}, "EACCES", "", "exec /memfd:program (deleted)")),
	underLSM(outcome{"EACCES", "", "exec a file without a path | a program without a path"}, line("a file in memory that insists", action{"in-child", "become-memory", "16", "FOLDER/bin/yes", "mark", "w/bad"}, "EACCES", "", "exec /memfd:program (deleted)")),
	underLSM(outcome{"EACCES", "", "exec a file without a path | a program without a path"}, line("a file in memory by its path", action{"execfd", "FOLDER/bin/yes", "0"}, "EACCES", "", "exec /memfd:program (deleted)")),
	line("a copy in a write tree", action{"in-child", "become-copy", "FOLDER/bin/yes", "FOLDER/w/copy", "mark", "w/bad"}, "EACCES", "+w/copy", "exec w/copy"),
	line("a copy in the temporary folder of memory", action{"in-child", "become-copy", "FOLDER/bin/yes", "/dev/shm/raypher-copy"}, "copy: open /dev/shm/raypher-copy: permission denied", "", "create /dev/shm/raypher-copy"),
	line("a hardlink in a write tree", action{"link", "bin/yes", "w/hard"}, "EXDEV", "", "link bin/yes | moving it would widen what may be done with it"),
	line("a program by its descriptor", action{"in-child", "become-fd", "r", "FOLDER/bin/yes", "mark", "w/ran7"}, "ok", "+w/ran7", ""),
	line("a program by its name alone (O_PATH)", action{"in-child", "become-fd", "path", "FOLDER/bin/yes", "mark", "w/ran8"}, "ok", "+w/ran8", ""),
	line("what is not granted, by its descriptor", action{"in-child", "become-fd", "r", "FOLDER/bin/no", "mark", "w/bad"}, "EACCES", "", "exec bin/no"),
	line("what is not granted, by its name alone", action{"in-child", "become-fd", "path", "FOLDER/bin/no", "mark", "w/bad"}, "EACCES", "", "exec bin/no"),
	line("execveat relative to a folder", action{"raw", "execveat", "path:bin", "s:no", "argv:x", "0", "0"}, "EACCES", "", "exec bin/no"),
	line("execveat of a link that is not followed", action{"raw", "execveat", "path:w", "s:toyes", "argv:x", "0", "0x100"}, "ELOOP", "", ""),
	line("over a granted program", action{"rename", "w/file", "bin/yes"}, "EACCES", "", "rename bin/yes"),
	line("into a granted program", action{"open", "bin/yes", "w"}, "EACCES", "", "open-write bin/yes"),
	line("beside a granted glob", action{"open", "bin/glob-2", "w,creat"}, "EACCES", "", "create bin/glob-2"),
}

var mapCases = []Case{
	line("a granted program", action{"map-program", "bin/yes"}, "ok", "", ""),
	line("memory of its own", action{"map-own"}, "ok", "", ""),
	line("a file that may only be read", action{"map-program", "w/file"}, "EACCES", "", "map-exec w/file | what the agent may write is executed by an exec rule only"),
	line("a program that is not granted", action{"map-program", "bin/no"}, "EACCES", "", "map-exec bin/no | a program is executed by an exec rule only"),
	line("a file that it wrote", action{"map-written", "w/mapped"}, "EACCES", "+w/mapped", "map-exec w/mapped | what the agent may write is executed by an exec rule only"),
	onlyLSM("the broker does not decide mprotect: the agent could read the same bytes into memory of its own", outcome{want: "ok"},
		line("what was mapped for reading, made executable later", action{"map-later", "w/file"}, "EACCES", "", "map-exec w/file | what the agent may write is executed by an exec rule only")),
}

// sockets is a policy of unix sockets.
var sockets = Setting{
	Name: "sockets",
	Policy: `
mode: enforce
filesystem: {read: [` + base + `, FOLDER/w/**], write: [FOLDER/w/**], exec: [PROGRAM]}
network:
  unix: [FOLDER/sock/yes, "FOLDER/sock/glob-*", "FOLDER/sock/{raypherd,raypherd-relay,enclave}.sock", FOLDER/dgram/yes]
`,
	Furnish: func(w *World) error {
		return errors.Join(
			w.Dir("w"),
			w.Listen("unix", "sock/yes", "sock/glob-1", "sock/no", "sock/raypherd.sock", "sock/raypherd-relay.sock", "sock/enclave.sock", "@raypher-conformance-"+w.Folder),
			w.Listen("unixgram", "dgram/yes", "dgram/no"), w.Listen("unixpacket", "packet/no"),
			w.Link("../sock/no", "w/tosocket"), w.Link("../sock/yes", "w/togranted"), w.Hard("sock/no", "w/hard"), w.File("w/file"),
		)
	},
	Sections: []Section{{"unix sockets", socketCases}, {"families of sockets", familyCases}},
}

var socketCases = []Case{
	line("connect to a granted socket", action{"connect", "FOLDER/sock/yes"}, "ok", "socket sock/yes: reached", ""),
	line("connect by glob", action{"connect", "FOLDER/sock/glob-1"}, "ok", "socket sock/glob-1: reached", ""),
	line("connect relative", action{"connect", "sock/yes"}, "ok", "socket sock/yes: reached", ""),
	line("connect through a link to a granted socket", action{"connect", "w/togranted"}, "ok", "socket sock/yes: reached", ""),
	line("connect to another socket", action{"connect", "FOLDER/sock/no"}, "EACCES", "", "connect sock/no"),
	line("connect through a link", action{"connect", "FOLDER/w/tosocket"}, "EACCES", "", "connect sock/no"),
	line("connect through /proc/self/root", action{"connect", "/proc/self/rootFOLDER/sock/no"}, "EACCES", "", "connect sock/no"),
	line("connect by another name of the socket", action{"connect", "FOLDER/w/hard"}, "EACCES", "", "connect w/hard"),
	line("connect to a raypherd", action{"connect", "FOLDER/sock/raypherd.sock"}, "EACCES", "", "connect sock/raypherd.sock | closed to every agent"),
	line("connect to a relay", action{"connect", "FOLDER/sock/raypherd-relay.sock"}, "EACCES", "", "connect sock/raypherd-relay.sock | closed to every agent"),
	line("connect to an enclave", action{"connect", "FOLDER/sock/enclave.sock"}, "EACCES", "", "connect sock/enclave.sock | closed to every agent"),
	line("connect for packets", action{"connect-packet", "FOLDER/packet/no"}, "EACCES", "", "connect packet/no"),
	line("connect for datagrams", action{"connect-datagram", "FOLDER/dgram/no"}, "EACCES", "", "connect dgram/no"),
	line("connect to what is no socket", action{"connect", "FOLDER/w/file"}, "ECONNREFUSED", "", ""),
	line("connect to nothing", action{"connect", "FOLDER/sock/nothing"}, "ENOENT", "", ""),
	held612(line("a datagram to another socket", action{"send-datagram", "FOLDER/dgram/no"}, "EPERM", "", "sendto-unix dgram/no")),
	held612(line("a datagram to a granted socket", action{"send-datagram", "FOLDER/dgram/yes"}, "EPERM", "", "sendto-unix dgram/yes")),
	held612(line("an abstract name outside", action{"connect-abstract", "raypher-conformance-FOLDER"}, "EPERM", "", "connect-unix @raypher-conformance-FOLDER")),
	held612(line("an abstract name of its own", action{"connect-own", "raypher-own-FOLDER"}, "EPERM", "", "connect-unix @raypher-own-FOLDER")),
	held612(line("a datagram to an abstract name", action{"send-abstract", "raypher-conformance-FOLDER"}, "EPERM", "", "sendto-unix @raypher-conformance-FOLDER")),
	line("binding in a write tree", action{"bind", "w/bound"}, "ok", "+w/bound", ""),
	underLSM(outcome{"EACCES", "", "mknod sock/bound"}, line("binding outside", action{"bind", "sock/bound"}, "EACCES", "", "")),
	line("an address of a bad length", action{"raw", "connect", "0", "z:200", "200"}, "EINVAL", "", ""),
}

var familyCases = []Case{
	line("raw socket", action{"socket", "2", "3", "1"}, "EPERM", "", "socket family 2, raw, protocol 1"),
	line("raw socket of IPv6", action{"socket", "10", "3", "58"}, "EPERM", "", "socket family 10, raw, protocol 58"),
	line("packet socket", action{"socket", "17", "3", "0"}, "EPERM", "", "socket family 17, raw, protocol 0"),
	line("vsock", action{"socket", "40", "1", "0"}, "EPERM", "", "socket family 40, stream, protocol 0"),
	line("netlink audit", action{"socket", "16", "3", "9"}, "EPERM", "", "socket family 16, raw, protocol 9"),
	line("netlink of the connector", action{"socket", "16", "2", "11"}, "EPERM", "", "socket family 16, datagram, protocol 11"),
	line("bluetooth", action{"socket", "31", "3", "1"}, "EPERM", "", "socket family 31, raw, protocol 1"),
	line("crypto", action{"socket", "38", "5", "0"}, "EPERM", "", "socket family 38, seqpacket, protocol 0"),
	line("XDP", action{"socket", "44", "3", "0"}, "EPERM", "", "socket family 44, raw, protocol 0"),
	line("SCTP", action{"socket", "2", "5", "132"}, "EPERM", "", "socket family 2, seqpacket, protocol 132"),
	line("ping", action{"socket", "2", "2", "1"}, "EPERM", "", "socket family 2, datagram, protocol 1"),
	line("netlink route", action{"socket", "16", "3", "0"}, "ok", "", ""),
	line("multipath tcp", action{"socket", "2", "1", "262"}, "EPROTONOSUPPORT", "", ""),
	line("tcp", action{"socket", "2", "1", "6"}, "ok", "", ""),
	line("udp over ipv6", action{"socket", "10", "2", "0"}, "ok", "", ""),
	line("joining a group", action{"join", "4"}, "EPERM", "", "socket multicast membership, option 35"),
	line("joining a group of IPv6", action{"join", "6"}, "EPERM", "", "socket multicast membership, option 20"),
	line("another option", action{"join", "0"}, "ok", "", ""),
	line("UDP-Lite", action{"socket", "2", "2", "136"}, "EPERM", "", "socket family 2, datagram, protocol 136"),
	line("DCCP", action{"socket", "2", "6", "33"}, "EPERM", "", "socket family 2, type 6, protocol 33"),
	line("CAN", action{"socket", "29", "3", "1"}, "EPERM", "", "socket family 29, raw, protocol 1"),
	line("TIPC", action{"socket", "30", "2", "0"}, "EPERM", "", "socket family 30, datagram, protocol 0"),
	line("SMC", action{"socket", "43", "1", "0"}, "EPERM", "", "socket family 43, stream, protocol 0"),
	line("binding to an interface", action{"raw", "setsockopt", "0", "1", "25", "s:lo", "3"}, "EPERM", "", "socket option SO_BINDTODEVICE"),
	line("binding to an interface by number", action{"raw", "setsockopt", "0", "1", "62", "z:4", "4"}, "EPERM", "", "socket option SO_BINDTOIFINDEX"),
	line("marking packets", action{"raw", "setsockopt", "0", "1", "36", "z:4", "4"}, "EPERM", "", "socket option SO_MARK"),
	line("IPv4 options, as source routes are", action{"raw", "setsockopt", "0", "0", "4", "z:4", "4"}, "EPERM", "", "socket option IP_OPTIONS"),
	line("another's address", action{"raw", "setsockopt", "0", "0", "19", "z:4", "4"}, "EPERM", "", "socket option IP_TRANSPARENT"),
	line("an IPv6 routing header", action{"raw", "setsockopt", "0", "41", "57", "z:8", "8"}, "EPERM", "", "socket option IPV6_RTHDR"),
	line("an option that is no way", action{"raw", "setsockopt", "0", "1", "9", "z:4", "4"}, "ENOTSOCK", "", ""),
}

// hashes is a policy of programs by their content.
var hashes = Setting{
	Name: "hashes",
	Policy: `
mode: enforce
filesystem:
  read: [` + base + `, FOLDER/bin/**, FOLDER/w/**]
  write: [FOLDER/w/**]
  exec: [PROGRAM, {path: FOLDER/bin/right, sha256: HASH}, {path: FOLDER/bin/wrong, sha256: HASH}]
`,
	Furnish: func(w *World) error {
		return errors.Join(w.Dir("w"), w.Copy("bin/right", "bin/wrong"), w.append("bin/wrong", "x"))
	},
	Sections: []Section{{"programs by hash", []Case{
		line("the content that was granted", action{"exec", "FOLDER/bin/right", "mark", "w/ran"}, "ok", "+w/ran", ""),
		line("another content under a granted path", action{"exec", "FOLDER/bin/wrong", "mark", "w/bad"}, "EACCES", "", "exec bin/wrong | its content has another SHA-256 than the policy says"),
		line("the granted content elsewhere", action{"in-child", "become-copy", "FOLDER/bin/right", "FOLDER/w/copy", "mark", "w/bad"}, "EACCES", "+w/copy", "exec w/copy"),
		line("another content by its descriptor", action{"in-child", "become-fd", "path", "FOLDER/bin/wrong", "mark", "w/bad"}, "EACCES", "", "exec bin/wrong | its content has another SHA-256 than the policy says"),
	}}},
}
