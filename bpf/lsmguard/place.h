/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Where an object lies. The path is built here, from the dentry up to the root of the mount namespace: bpf_d_path is missing in
 * half of the hooks of Linux 6.1, ends at the caller's root, and says nothing of what lies on the way. The kernel's own lock on
 * names (rename_lock) tells whether a name changed meanwhile; then it is built again.
 */
#ifndef RAYPHER_LSMGUARD_PLACE_H
#define RAYPHER_LSMGUARD_PLACE_H

extern void rename_lock __ksym; /* fs/dcache.c, a seqlock_t: begins with its sequence */
extern void mount_lock __ksym;  /* fs/namespace.c */

#define MAX_STEPS 2200	/* PATH_BYTES / 2 names, and mounts */
#define MAX_TRIES 32	/* names that change all the time refuse */

struct steps {
	__u64 dentry;
	__u64 mount;		/* struct mount */
	__u64 process;		/* dentry right below the root of a procfs */
	__u32 at;		/* start of the path in room->build */
	__u32 process_at;
	__u32 flags;
	__u32 ended;		/* 1: at the root */
};

struct climb {
	struct room *room;
	struct steps steps;
};

/*
 * Before 6.8 the verifier looks at one round of a bpf_loop only, and takes out branches that this round cannot reach with the
 * values it begins with. So it must not know these values.
 */
static __always_inline void unknown(void *values, __u32 size)
{
	bpf_probe_read_kernel(values, size, values);
}

static __always_inline __u32 sequence(const void *lock)
{
	__u32 value = 1;

	bpf_probe_read_kernel(&value, sizeof(value), lock);
	return value;
}

/* A program is built with the mount's own structure around struct vfsmount. */
static __always_inline __u64 mount_of(__u64 vfsmount)
{
	return vfsmount - bpf_core_field_offset(struct mount, mnt);
}

static __always_inline __u32 object_flags(__u64 inode, __u32 number)
{
	struct inode *at = (void *)inode;
	struct object_key key = {};
	__u32 *flags;

	if (!inode)
		return 0;
	key.inode = BPF_CORE_READ(at, i_ino);
	key.device = BPF_CORE_READ(at, i_sb, s_dev);
	key.number = number;
	flags = bpf_map_lookup_elem(&objects, &key);
	return flags ? *flags : 0;
}

/* One step up: a name, or a mount. */
static long climb_step(__u32 i, struct climb *climb)
{
	struct steps *c = &climb->steps;
	struct mount *m = (void *)c->mount;
	struct dentry *d = (void *)c->dentry, *root = BPF_CORE_READ(m, mnt.mnt_root), *up;
	__u32 length, at = c->at;

	if (d == root) {
		struct mount *parent = BPF_CORE_READ(m, mnt_parent);

		if (parent == m) {
			c->ended = 1;
			return 1;
		}
		c->dentry = (__u64)BPF_CORE_READ(m, mnt_mountpoint);
		c->mount = (__u64)parent;
		return 0;
	}
	up = BPF_CORE_READ(d, d_parent);
	if (up == d)
		return 1; /* it does not lie below this mount any more */
	length = BPF_CORE_READ(d, d_name.len);
	if (length > NAME_MAX || length + 1 > at || at > PATH_BYTES)
		return 1;
	at -= length + 1;
	at &= PATH_BYTES - 1;
	climb->room->build[at] = '/';
	asm volatile("" : "+r"(length));
	length &= NAME_MAX;
	if (bpf_probe_read_kernel(&climb->room->build[at + 1], length, BPF_CORE_READ(d, d_name.name)))
		return 1;
	c->at = at;
	c->flags |= object_flags((__u64)BPF_CORE_READ(d, d_inode), 0) & (OBJECT_CLOSED | OBJECT_SEALED);
	if (up == root && BPF_CORE_READ(d, d_sb, s_magic) == PROC_SUPER_MAGIC) {
		c->process = (__u64)d;
		c->process_at = at;
	}
	c->dentry = (__u64)up;
	return 0;
}

/* File systems whose files are switches of the kernel: floor.kernelKinds. */
static __always_inline bool kernel_kind(__u64 magic)
{
	switch (magic) {
	case 0x9fa0:		/* proc */
	case 0x62656572:	/* sysfs */
	case 0x63677270:	/* cgroup2 */
	case 0x27e0eb:		/* cgroup */
	case 0xcafe4a11:	/* bpf */
	case 0x64626720:	/* debugfs */
	case 0x74726163:	/* tracefs */
	case 0x73636673:	/* securityfs */
	case 0xf97cff8c:	/* selinuxfs */
	case 0x43415d53:	/* smackfs */
	case 0x62656570:	/* configfs */
	case 0xde5e81e4:	/* efivarfs */
	case 0x6165676c:	/* pstore */
	case 0x42494e4d:	/* binfmt_misc */
	case 0x65735543:	/* fusectl */
	case 0x6e667364:	/* nfsd */
	case 0x67596969:	/* rpc_pipefs */
	case 0x7655821:		/* resctrl */
	case 0xabba1974:	/* xenfs */
		return true;
	}
	return false;
}

/* major:minor of /dev/null, zero, full, random, urandom, and of /dev/tty. */
static __always_inline bool base_device(__u32 rdev)
{
	switch (rdev) {
	case 1 << 20 | 3: case 1 << 20 | 5: case 1 << 20 | 7: case 1 << 20 | 8: case 1 << 20 | 9: case 5 << 20:
		return true;
	}
	return false;
}

/* memcmp is no function here. */
static __always_inline bool same(const void *a, const void *b, __u32 length)
{
	__u32 i;

	for (i = 0; i < length; i++)
		if (((const volatile char *)a)[i] != ((const volatile char *)b)[i])
			return false;
	return true;
}

/* A name of less than 16 bytes, which are compared as two words: a loop over bytes is a hundred times as much for the verifier. */
union short_name {
	char text[16];
	__u64 words[2];
};

/* The files of its own folder in procfs that a process may write: broker.ownFiles. */
static const union short_name own_files[] = {
	{ "oom_score_adj" }, { "oom_adj" }, { "comm" }, { "coredump_filter" }, { "timerslack_ns" }, { "clear_refs" },
};

__noinline int own_file(__u64 dentry)
{
	struct dentry *d = (void *)dentry;
	union short_name name = {};
	__u32 length = BPF_CORE_READ(d, d_name.len), i;
	bool found = false;

	if (length >= sizeof(name))
		return false;
	asm volatile("" : "+r"(length));
	length &= sizeof(name) - 1;
	bpf_probe_read_kernel(name.text, length, BPF_CORE_READ(d, d_name.name));
#pragma unroll
	for (i = 0; i < sizeof(own_files) / sizeof(own_files[0]); i++)
		found |= name.words[0] == own_files[i].words[0] && name.words[1] == own_files[i].words[1];
	return found;
}

/* What the object itself says, without its path. */
__noinline __u32 leaf_flags(__u64 dentry, __u32 number)
{
	struct dentry *d = (void *)dentry;
	struct inode *inode = BPF_CORE_READ(d, d_inode);
	__u32 flags = kernel_kind(BPF_CORE_READ(d, d_sb, s_magic)) ? PLACE_KERNEL : 0;
	__u16 mode, kind;

	if (!inode)
		return flags;
	mode = BPF_CORE_READ(inode, i_mode);
	kind = mode & S_IFMT;
	if (kind == S_IFDIR)
		flags |= PLACE_FOLDER;
	else if (kind == S_IFREG && mode & 0111)
		flags |= PLACE_PROGRAM;
	else if (kind == S_IFBLK)
		flags |= PLACE_BLOCK;
	else if (kind == S_IFCHR && base_device(BPF_CORE_READ(inode, i_rdev)))
		flags |= PLACE_BASE;
	flags |= object_flags((__u64)inode, 0);
	if (number)
		flags |= object_flags((__u64)inode, number);
	return flags;
}

static __always_inline struct mnt_namespace *own_mounts(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, nsproxy, mnt_ns);
}

/* A mount that a dentry can be seen through, where the hook does not say which: the whole file system's, or else the first. */
struct choice {
	__u64 mount;		/* struct mount */
	__u64 head;		/* end of the list */
	__u64 root;		/* of the file system */
	__u64 mounts;		/* the caller's namespace */
	__u64 found;
};

static __always_inline bool linked(void) { return bpf_core_field_exists(struct mount___since_6_17, mnt_next_for_sb); }

static long choose_step(__u32 i, struct choice *c)
{
	struct mount *m = (void *)c->mount;

	if (!m || c->mount == c->head)
		return 1;
	if ((__u64)BPF_CORE_READ(m, mnt_ns) == c->mounts) {
		if (!c->found)
			c->found = (__u64)m;
		if ((__u64)BPF_CORE_READ(m, mnt.mnt_root) == c->root) {
			c->found = (__u64)m;
			return 1;
		}
	}
	if (linked())
		c->mount = (__u64)BPF_CORE_READ((struct mount___since_6_17 *)m, mnt_next_for_sb);
	else
		c->mount = (__u64)BPF_CORE_READ(m, mnt_instance.next) - bpf_core_field_offset(struct mount, mnt_instance);
	return 0;
}

__noinline __u64 some_mount(__u64 dentry)
{
	struct dentry *d = (void *)dentry;
	struct super_block *sb = BPF_CORE_READ(d, d_sb);
	struct choice c = {};

	if (linked()) {
		c.mount = (__u64)BPF_CORE_READ((struct super_block___since_6_17 *)sb, s_mounts);
	} else {
		__u64 offset = bpf_core_field_offset(struct mount, mnt_instance);

		c.head = (__u64)sb + bpf_core_field_offset(struct super_block, s_mounts) - offset;
		c.mount = (__u64)BPF_CORE_READ(sb, s_mounts.next) - offset;
	}
	c.root = (__u64)BPF_CORE_READ(sb, s_root);
	c.mounts = (__u64)own_mounts();
	unknown(&c, sizeof(c));
	bpf_loop(1024, choose_step, &c, 0);
	return c.found;
}

/* Puts the caller's own name of a place in procfs into room->second; 0, or its length. */
static __always_inline __u32 self_name(struct room *room, const struct steps *c)
{
	__u32 rest, length, at = c->at, name = c->process_at;
	struct dentry *process = (void *)c->process;
	struct inode *inode = BPF_CORE_READ(process, d_inode);
	struct task_struct *task = (void *)bpf_get_current_task();
	struct proc_inode *own;
	struct pid *pid;

	/* The folder's name ends where the next one begins. */
	rest = name + 1 + BPF_CORE_READ(process, d_name.len);
	if (name != at + 5 || rest < 10 || rest > PATH_BYTES || !inode)
		return 0;
	own = (void *)inode - bpf_core_field_offset(struct proc_inode, vfs_inode);
	pid = BPF_CORE_READ(own, pid);
	if (!pid || pid != BPF_CORE_READ(task, signal, pids[PIDTYPE_TGID]))
		return 0;
	rest &= 2 * PATH_BYTES - 1;
	length = PATH_BYTES - rest;
	if (length > PATH_BYTES - 10)
		return 0;
	asm volatile("" : "+r"(length));
	length &= PATH_BYTES - 1;
	if (length > PATH_BYTES - 10)
		return 0;
	__builtin_memcpy(room->second, "/proc/self", 10);
	rest &= PATH_BYTES - 1;
	if (length)
		bpf_probe_read_kernel(room->second + 10, length, &room->build[rest]);
	return 10 + length;
}

/* The path of a dentry, as far as it could be built; tried until no name changed meanwhile. */
struct search {
	struct climb climb;
	__u64 dentry;
	__u64 mount;		/* struct mount */
	struct room *room;
	__u32 found;
};

static long climb_once(__u32 i, struct search *s)
{
	__u32 before = sequence(&rename_lock);
	struct steps *c = &s->climb.steps;

	s->climb.room = s->room;
	c->dentry = s->dentry;
	c->mount = s->mount;
	c->at = PATH_BYTES;
	c->process = 0;
	c->flags = 0;
	c->ended = 0;
	unknown(c, sizeof(*c));
	bpf_loop(MAX_STEPS, climb_step, &s->climb, 0);
	if (before & 1 || before != sequence(&rename_lock))
		return 0;
	s->found = c->ended;
	return 1;
}

struct place {
	__u64 dentry;
	__u64 mount;		/* struct vfsmount; 0: not known */
	__u32 room;
	__u32 number;		/* of the agent */
	__u32 flags;		/* answers */
	__u32 second;		/* length of the path in room->second; 0: there is none */
};

/*
 * locate finds the path of a dentry, absolute in the caller's mount namespace, into room->event.path. -1: it has none that can
 * be told; 0 also where it needs none (PLACE_NAMELESS).
 */
__noinline int locate(struct place *p)
{
	struct search s = {};
	struct mnt_namespace *ns;
	__u64 dentry, vfsmount;
	struct room *room;
	struct dentry *d;
	struct mount *top;
	__u32 length, at;

	if (!p)
		return -1;
	room = room_of(p->room);
	if (!room)
		return -1;
	dentry = p->dentry;
	vfsmount = p->mount;
	d = (void *)dentry;
	s.dentry = dentry;
	s.room = room;
	room->event.length = 0;
	p->flags = leaf_flags(dentry, p->number);
	p->second = 0;
	if (BPF_CORE_READ(d, d_sb, s_flags) & SB_NOUSER) {
		p->flags |= PLACE_NAMELESS;
		return 0;
	}
	s.mount = vfsmount ? mount_of(vfsmount) : some_mount(dentry);
	if (!s.mount)
		return -1;
	unknown(&s.climb.steps, sizeof(s.climb.steps));
	unknown(&s.found, sizeof(s.found));
	bpf_loop(MAX_TRIES, climb_once, &s, 0);
	if (!s.found)
		return -1;
	/* The top is the root of the caller's namespace: not of another one, nor of a mount that was taken away. */
	top = (void *)s.climb.steps.mount;
	ns = BPF_CORE_READ(top, mnt_ns);
	if ((__u64)ns > (__u64)-4096) {
		p->flags |= PLACE_NAMELESS; /* mounted by the kernel for itself: what lies below an overlay */
		return 0;
	}
	if (!ns || ns != own_mounts())
		return -1;
	p->flags |= s.climb.steps.flags;
	at = s.climb.steps.at;
	if (at >= PATH_BYTES) {
		at = PATH_BYTES - 1;
		room->build[PATH_BYTES - 1] = '/';
	}
	length = PATH_BYTES - at;
	asm volatile("" : "+r"(length));
	if (length > PATH_BYTES)
		return -1;
	bpf_probe_read_kernel(room->event.path, length, &room->build[at & (PATH_BYTES - 1)]);
	room->event.length = length;
	if (s.climb.steps.process) {
		p->second = self_name(room, &s.climb.steps);
		if (p->second) {
			p->flags |= PLACE_OWN;
			if ((__u64)BPF_CORE_READ(d, d_parent) == s.climb.steps.process && own_file(dentry))
				p->flags |= PLACE_OWN_FILE;
		}
	}
	return 0;
}

#endif
