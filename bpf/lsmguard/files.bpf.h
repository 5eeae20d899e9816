/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Open files. Each program returns 0, or a negative errno; for outsiders it costs the question who is governed. file_open, which
 * is called most, answers from a verdict that the inode keeps: no path, no rules.
 */

static __always_inline __u64 seal(const struct verdict *v)
{
	return v->agent * 0x9e3779b97f4a7c15ULL + v->generation * 0xc2b2ae3d27d4eb4fULL + v->dentry * 0x165667b19e3779f9ULL +
	       v->mount * 0xd6e8feb86659fd93ULL + v->deadline * 0xff51afd7ed558ccdULL + v->name * 0xc4ceb9fe1a85ec53ULL +
	       v->mounts * 0xa0761d6478bd642fULL + v->allowed * 0xe7037ed1a0b428dbULL + 1;
}

static __always_inline __u32 access_of(struct file *file)
{
	__u32 mode = file->f_mode, flags = file->f_flags, access = 0;

	if (flags & FMODE_EXEC)
		return ACCESS_EXEC;
	if (mode & FMODE_READ)
		access |= ACCESS_READ;
	if (mode & FMODE_WRITE || flags & O_TRUNC)
		access |= ACCESS_WRITE;
	return access ?: ACCESS_READ | ACCESS_WRITE; /* 3: for ioctl only */
}

static __always_inline enum operation opening(__u32 access)
{
	if (access & ACCESS_EXEC)
		return OP_EXEC;
	if (access == (ACCESS_READ | ACCESS_WRITE))
		return OP_OPEN_READ_WRITE;
	return access & ACCESS_WRITE ? OP_OPEN_WRITE : OP_OPEN_READ;
}

/* The verifier lets nobody calculate with a pointer to the kernel's memory, and that is not what is done here: it is a name. */
static __always_inline __u64 number_of(const void *pointer)
{
	__u64 number = 0;

	bpf_probe_read_kernel(&number, sizeof(number), &pointer);
	return number;
}

/* on_file decides an access to an open file, from its inode's verdict where there is one that still holds. */
static __always_inline int on_file(struct file *file, struct query *q)
{
	struct verdict fresh = { .agent = q->cgroup };
	struct inode *inode = file->f_inode;
	struct dentry *dentry = file->f_path.dentry;
	struct verdicts *all;
	struct verdict *v;
	int error;

	fresh.dentry = number_of(dentry);
	fresh.mount = number_of(file->f_path.mnt);
	fresh.name = dentry->d_name.hash;
	fresh.mounts = sequence(&mount_lock);
	fresh.generation = *(volatile __u64 *)&verdict_generation;
	all = bpf_inode_storage_get(&cache, inode, 0, 0);
	if (all) {
		v = &all->of[q->cgroup & (VERDICTS - 1)];
		fresh.deadline = v->deadline;
		fresh.allowed = v->allowed;
		if (!(q->access & ~fresh.allowed) && v->agent == fresh.agent && v->generation == fresh.generation &&
		    v->dentry == fresh.dentry && v->mount == fresh.mount && v->name == fresh.name && v->mounts == fresh.mounts &&
		    v->seal == seal(&fresh) && bpf_ktime_get_boot_ns() < fresh.deadline)
			return 0;
	}
	q->dentry = fresh.dentry;
	q->mount = fresh.mount;
	error = decide(q);
	if (error || !q->allowed)
		return error;
	all = bpf_inode_storage_get(&cache, inode, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!all)
		return 0;
	v = &all->of[q->cgroup & (VERDICTS - 1)];
	fresh.deadline = q->deadline;
	fresh.allowed = q->allowed;
	fresh.seal = seal(&fresh);
	*v = fresh;
	return 0;
}

SEC("lsm/file_open")
int BPF_PROG(on_file_open, struct file *file)
{
	struct query q = { .hook = HOOK_FILE_OPEN };

	if (!governed(&q.cgroup))
		return 0;
	q.access = access_of(file);
	q.operation = file->f_flags & O_NAMELESS ? OP_CREATE : opening(q.access);
	if (q.access == ACCESS_EXEC)
		q.flags = QUERY_PARTIAL;
	return on_file(file, &q);
}

/* A descriptor from another process: as if it were opened. One that is only a name (O_PATH) opens nothing yet. */
SEC("lsm/file_receive")
int BPF_PROG(on_file_receive, struct file *file)
{
	struct query q = { .hook = HOOK_FILE_RECEIVE, .operation = OP_RECEIVE };

	if (file->f_mode & FMODE_PATH || !governed(&q.cgroup))
		return 0;
	q.access = access_of(file);
	return on_file(file, &q);
}

/* Writing through a descriptor that was inherited: only the switches of the kernel are asked about again. */
SEC("lsm/file_permission")
int BPF_PROG(on_file_permission, struct file *file, int mask)
{
	struct query q = { .hook = HOOK_FILE_PERMISSION, .operation = OP_WRITE, .access = ACCESS_WRITE };

	if (!(mask & MAY_WRITE) || !governed(&q.cgroup) || !kernel_kind(file->f_inode->i_sb->s_magic))
		return 0;
	return on_file(file, &q);
}

/* Requests to a descriptor that reach past it: floor.Ioctls. */
static __always_inline bool reaches(__u32 request)
{
	switch (request) {
	case 0x5412:		/* TIOCSTI */
	case 0x541c:		/* TIOCLINUX */
	case 0x40086602:	/* FS_IOC_SETFLAGS */
	case 0x401c5820:	/* FS_IOC_FSSETXATTR */
	case 0x40087602:	/* FS_IOC_SETVERSION */
	case 0x40086604:	/* EXT4_IOC_SETVERSION */
	case 0x40806685:	/* FS_IOC_ENABLE_VERITY */
	case 0x40046602:	/* FS_IOC32_SETFLAGS */
		return true;
	}
	return false;
}

SEC("lsm/file_ioctl")
int BPF_PROG(on_file_ioctl, struct file *file, unsigned int request)
{
	__u64 id;

	if (!reaches(request) || !governed(&id))
		return 0;
	return never(id, OP_IOCTL, HOOK_FILE_IOCTL, REASON_NEVER, request, 0);
}

/* Since 6.7 (and in 6.6.13): the same for programs of 32 bits. */
SEC("lsm/file_ioctl_compat")
int BPF_PROG(on_file_ioctl_compat, struct file *file, unsigned int request)
{
	__u64 id;

	if (!reaches(request) || !governed(&id))
		return 0;
	return never(id, OP_IOCTL, HOOK_FILE_IOCTL, REASON_NEVER, request, 0);
}

/* include/uapi/asm-generic/mman-common.h, mman.h; include/linux/mm.h */
#define MAP_TYPE 0x0f
#define MAP_PRIVATE 0x02
#define MAP_DENYWRITE 0x0800
#define VM_SHARED 0x08

/*
 * A file is mapped for execution: granted to exec, or a library. Or it is mapped by the loader, whatever for, which alone still sets
 * MAP_DENYWRITE: relocations can make code of what it reads. Memory without a file is the program's own matter.
 */
/* executed says whether the kernel maps the program that it executes at this moment. */
static __always_inline bool executed(struct file *file)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	if (!bpf_core_field_exists(task->in_execve) || !BPF_CORE_READ_BITFIELD_PROBED(task, in_execve))
		return false;
	return (__u64)BPF_CORE_READ(task, mm, exe_file) == number_of(file);
}

SEC("lsm/mmap_file")
int BPF_PROG(on_mmap_file, struct file *file, unsigned long asked, unsigned long prot, unsigned long flags)
{
	struct query q = { .hook = HOOK_MMAP_FILE, .operation = OP_MAP_EXEC, .access = ACCESS_EXEC, .flags = QUERY_MAP };

	if (!(prot & PROT_EXEC || flags & MAP_DENYWRITE) || !file || !governed(&q.cgroup))
		return 0;
	if ((file->f_inode->i_mode & S_IFMT) != S_IFREG)
		return 0;
	if ((flags & MAP_TYPE) != MAP_PRIVATE)
		q.flags |= QUERY_SHARED;
	else if (executed(file))
		q.flags |= QUERY_EXECUTED;
	q.dentry = (__u64)file->f_path.dentry;
	q.mount = (__u64)file->f_path.mnt;
	return decide(&q);
}

SEC("lsm/file_mprotect")
int BPF_PROG(on_file_mprotect, struct vm_area_struct *area, unsigned long asked, unsigned long prot)
{
	struct query q = { .hook = HOOK_FILE_MPROTECT, .operation = OP_MAP_EXEC, .access = ACCESS_EXEC, .flags = QUERY_MAP };
	struct file *file;

	if (!(prot & PROT_EXEC) || !governed(&q.cgroup))
		return 0;
	file = area->vm_file;
	if (!file || (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFREG)
		return 0;
	if (area->vm_flags & VM_SHARED)
		q.flags |= QUERY_SHARED;
	q.dentry = (__u64)BPF_CORE_READ(file, f_path.dentry);
	q.mount = (__u64)BPF_CORE_READ(file, f_path.mnt);
	return decide(&q);
}

/* io_uring and userfaultfd are files without a name, made with a word that says which (since 5.16). */
SEC("lsm/inode_init_security_anon")
int BPF_PROG(on_anon_inode, struct inode *inode, const struct qstr *name, const struct inode *context)
{
	char word[16] = {};
	__u64 id;

	if (!governed(&id))
		return 0;
	bpf_probe_read_kernel_str(word, sizeof(word), name->name);
	if (!same(word, "[io_uring]", 10) && !same(word, "[userfaultfd]", 13))
		return 0;
	return never(id, OP_ANON, HOOK_ANON_INODE, REASON_NEVER, word[1] == 'u', 0);
}
