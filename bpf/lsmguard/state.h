/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * State of the file guard: what raypherd writes (agents, rules, objects, permits), what the programs keep (verdicts), and what
 * they report. Go reads these layouts through generated types; they stand only here.
 */
#ifndef RAYPHER_LSMGUARD_STATE_H
#define RAYPHER_LSMGUARD_STATE_H

#define MAX_AGENTS 4096
#define MAX_TABLES 8192		/* of rules: an agent's old and new ones, and those of its unix sockets */
#define MAX_OBJECTS 65536
#define MAX_PERMITS 4096
#define MAX_HASHES 65536
#define PATH_BYTES 4096		/* of a path as the guard sees it; longer ones are refused */
#define NAME_MAX 255		/* include/uapi/linux/limits.h */
#define ROOMS 8			/* calls that can be in the middle of a decision on one CPU */

/* Enumerations are one byte, so that they are the types of fields. */
#define BYTE __attribute__((packed))

enum mode { MODE_ENFORCE = 0, MODE_AUDIT, MODE_PERMISSIVE } BYTE;

/* One agent, keyed by the id of its cgroup. Written by raypherd only. */
struct agent {
	__u64 deadline;		/* CLOCK_BOOTTIME, nanoseconds: everything that is decided here is refused from then on */
	__u64 capabilities;	/* that its permit keeps, as bits */
	__u32 files;		/* table of its file rules */
	__u32 sockets;		/* table of its unix sockets; 0: it has none */
	__u32 number;		/* of the agent, in objects and hashes; 0 stands for all agents there */
	__u32 version;		/* of its rules, in hashes */
	__u32 level;		/* depth of its cgroup, the root is 0 */
	enum mode mode;
	__u8 kill;		/* on_violation */
	__u8 governed;		/* 0: its permit has no file rules */
	__u8 hashes;		/* some of its programs are known by content */
};

/* An object that is treated in its own way, whatever the rules say of its path. */
struct object_key {
	__u64 inode;
	__u32 device;		/* as the kernel writes it: major << 20 | minor */
	__u32 number;		/* of an agent; 0: for all */
};

#define OBJECT_CLOSED (1 << 0)	/* never opened, nor what lies below */
#define OBJECT_SEALED (1 << 1)	/* never written, nor what lies below */
#define OBJECT_HOLDS (1 << 2)	/* has such an object somewhere below: never moved or removed */
#define OBJECT_DEVICE (1 << 3)	/* read and written without a rule: a terminal */
#define OBJECT_LOADER (1 << 4)	/* the dynamic loader of a granted program: opened by the kernel in an execve */
#define OBJECT_SOCKET (1 << 5)	/* raypherd's socket for agents: connected to without a rule */
/* Beside these, in what is known of one place: */
#define PLACE_KERNEL (1 << 8)	/* in a file system whose files are switches of the kernel */
#define PLACE_OWN (1 << 9)	/* in the caller's own folder of procfs */
#define PLACE_OWN_FILE (1 << 10) /* and one that a process may write */
#define PLACE_NAMELESS (1 << 11) /* without a path: pipes, sockets, files in memory */
#define PLACE_BASE (1 << 12)	/* /dev/null and its like */
#define PLACE_BLOCK (1 << 13)	/* a disk */
#define PLACE_FOLDER (1 << 14)
#define PLACE_PROGRAM (1 << 15)	/* a file that somebody may execute by its mode */

struct hash_key {
	__u32 number;
	__u32 version;
	__u64 path;		/* FNV-1a */
};

struct hash {
	__u8 sha256[32];
};

/* What a person allowed for a while. */
struct permit_key {
	__u64 cgroup;
	__u64 path;		/* FNV-1a; the path itself is compared too */
};

struct permit {
	__u64 until;		/* CLOCK_BOOTTIME, nanoseconds */
	__u32 thread;		/* 0: any of the agent's */
	__u32 access;
	__u32 once;
	__u32 length;
	char path[PATH_BYTES];
};

/* One verdict on an inode, for one agent under one name. What does not match is decided again. */
struct verdict {
	__u64 agent;
	__u64 generation;
	__u64 dentry;
	__u64 mount;
	__u64 deadline;
	__u32 name;		/* d_name.hash: changes with the name and with the folder */
	__u32 mounts;		/* sequence of mount_lock: changes with any mount */
	__u64 allowed;		/* bits of access */
	__u64 seal;		/* over all of them: a verdict of which two CPUs wrote parts is none */
};

#define VERDICTS 2 /* of each inode, by agent */

struct verdicts {
	struct verdict of[VERDICTS];
};

struct counters {
	__u64 refused;
	__u64 would_block;
	__u64 reported;		/* of both, as single events */
	__u64 suppressed;	/* beyond the rate of single events */
	__u64 lost;		/* the ring buffer was full */
	__u64 window;		/* start of the second in which recent were reported */
	__u64 recent;
};

/* The hooks, as reported. */
enum hook {
	HOOK_FILE_OPEN = 1, HOOK_FILE_PERMISSION, HOOK_FILE_RECEIVE, HOOK_FILE_IOCTL, HOOK_MMAP_FILE, HOOK_FILE_MPROTECT,
	HOOK_PATH_MKNOD, HOOK_PATH_MKDIR, HOOK_PATH_SYMLINK, HOOK_PATH_LINK, HOOK_PATH_RENAME, HOOK_PATH_UNLINK, HOOK_PATH_RMDIR,
	HOOK_PATH_CHMOD, HOOK_PATH_CHOWN, HOOK_PATH_TRUNCATE, HOOK_PATH_CHROOT, HOOK_INODE_SETATTR, HOOK_INODE_SETXATTR,
	HOOK_INODE_REMOVEXATTR, HOOK_INODE_SET_ACL, HOOK_INODE_REMOVE_ACL, HOOK_ANON_INODE, HOOK_BPRM_CHECK, HOOK_UNIX_CONNECT,
	HOOK_UNIX_SEND, HOOK_TASK_KILL, HOOK_PTRACE, HOOK_TASK_SCHEDULE, HOOK_TASK_ALLOC, HOOK_CAPABLE, HOOK_SB_MOUNT, HOOK_MOVE_MOUNT,
	HOOK_SB_UMOUNT, HOOK_PIVOTROOT, HOOK_USERNS, HOOK_BPF, HOOK_PERF, HOOK_KEY, HOOK_KERNEL_READ, HOOK_URING,
} BYTE;

enum operation {
	OP_OPEN_READ = 1, OP_OPEN_WRITE, OP_OPEN_READ_WRITE, OP_EXEC, OP_MAP_EXEC, OP_CREATE, OP_MKNOD, OP_MKDIR, OP_SYMLINK, OP_LINK, OP_RENAME,
	OP_UNLINK, OP_RMDIR, OP_CHMOD, OP_CHOWN, OP_TRUNCATE, OP_CHROOT, OP_UTIMES, OP_SETXATTR, OP_REMOVEXATTR, OP_WRITE,
	OP_RECEIVE, OP_IOCTL, OP_ANON, OP_CONNECT, OP_SENDTO, OP_SIGNAL, OP_PTRACE, OP_SCHEDULE, OP_CLONE, OP_CAPABILITY, OP_MOUNT,
	OP_UMOUNT, OP_NAMESPACE, OP_BPF, OP_PERF, OP_KEYCTL, OP_KERNEL,
} BYTE;

enum reason {
	REASON_NOT_GRANTED = 0, REASON_EXPIRED, REASON_UNKNOWN_AGENT, REASON_UNREADABLE, REASON_CLOSED, REASON_SEALED,
	REASON_WIDENS, REASON_SETID, REASON_FOREIGN, REASON_APPROVAL, REASON_HASH, REASON_NEVER, REASON_NAMELESS,
} BYTE;

struct event {
	__u64 time;		/* CLOCK_BOOTTIME, nanoseconds */
	__u64 cgroup;
	__u32 pid;		/* thread group */
	__u32 thread;
	char comm[16];
	__s32 error;		/* errno that the program gets */
	__u32 detail;		/* capability, process, ioctl request ... by operation */
	__u32 outcome;		/* of the rules, automaton.h */
	__u32 access;
	enum operation operation;
	enum hook hook;
	enum reason reason;
	enum mode mode;
	__u32 length;		/* of path */
	char path[PATH_BYTES];
};

/*
 * Memory for one decision. A program can be preempted by another one on the same CPU: so each takes a room that is free, and
 * refuses where there is none.
 */
struct room {
	__u32 busy;
	__u32 reserved;
	struct event event;
	char second[PATH_BYTES];	/* another name of the same object */
	char build[PATH_BYTES + NAME_MAX + 1];	/* grows from its end to its start */
};

struct table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_INNER_MAP);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct cell));
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_AGENTS);
	__type(key, __u64);
	__type(value, struct agent);
} agents SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_AGENTS);
	__type(key, __u64);
	__type(value, struct counters);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_TABLES);
	__type(key, __u32);
	__array(values, struct table);
} tables SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_OBJECTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct object_key);
	__type(value, __u32);
} objects SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_HASHES);
	__type(key, struct hash_key);
	__type(value, struct hash);
} hashes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PERMITS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct permit_key);
	__type(value, struct permit);
} permits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_INODE_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct verdicts);
} cache SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, ROOMS);
	__type(key, __u32);
	__type(value, struct room);
} rooms SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 21);
	__type(value, struct event);
} events SEC(".maps");

/* Where agents are, and the age of all verdicts. In a map of their own, which is pinned like the others. */
#define SHARED SEC(".data.shared")

volatile __u64 agents_parent SHARED = 0;	/* cgroup of the agents' cgroups */
volatile __u32 agents_level SHARED = 0;		/* their depth; 0: not set yet, nobody is governed */
volatile __u32 attached_depths SHARED = 0;	/* at which other governed cgroups are, as bits */
__u64 verdict_generation SHARED = 1;		/* verdicts of an older one are decided again */

#endif
