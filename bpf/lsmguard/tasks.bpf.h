/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The agent's border: other processes, and the kernel itself. Each program returns 0 or -EPERM. */

static __always_inline int on_task(struct task_struct *task, enum operation operation, enum hook hook, __u32 detail)
{
	__u64 id;

	if (!governed(&id) || own_task(task, id))
		return 0;
	return never(id, operation, hook, REASON_FOREIGN, detail, 0);
}

SEC("lsm/task_kill")
int BPF_PROG(on_task_kill, struct task_struct *task, void *info, int signal)
{
	return on_task(task, OP_SIGNAL, HOOK_TASK_KILL, signal);
}

/* ptrace, /proc/pid/mem, process_vm_readv, pidfd_getfd, setns, and what of procfs is private. */
SEC("lsm/ptrace_access_check")
int BPF_PROG(on_ptrace, struct task_struct *child, unsigned int mode)
{
	return on_task(child, OP_PTRACE, HOOK_PTRACE, mode);
}

SEC("lsm/task_setnice")
int BPF_PROG(on_setnice, struct task_struct *task, int nice)
{
	return on_task(task, OP_SCHEDULE, HOOK_TASK_SCHEDULE, 0);
}

SEC("lsm/task_setioprio")
int BPF_PROG(on_setioprio, struct task_struct *task, int priority)
{
	return on_task(task, OP_SCHEDULE, HOOK_TASK_SCHEDULE, 0);
}

SEC("lsm/task_setscheduler")
int BPF_PROG(on_setscheduler, struct task_struct *task)
{
	return on_task(task, OP_SCHEDULE, HOOK_TASK_SCHEDULE, 0);
}

SEC("lsm/task_movememory")
int BPF_PROG(on_movememory, struct task_struct *task)
{
	return on_task(task, OP_SCHEDULE, HOOK_TASK_SCHEDULE, 0);
}

SEC("lsm/task_setrlimit")
int BPF_PROG(on_setrlimit, struct task_struct *task)
{
	return on_task(task, OP_SCHEDULE, HOOK_TASK_SCHEDULE, 0);
}

/* A child straight into another cgroup: no file is opened for that. */
SEC("lsm/task_alloc")
int BPF_PROG(on_task_alloc, struct task_struct *task, unsigned long flags)
{
	__u64 id;

	if (!(flags & CLONE_INTO_CGROUP) || !governed(&id))
		return 0;
	return never(id, OP_CLONE, HOOK_TASK_ALLOC, REASON_NEVER, 0, 0);
}

/* Capabilities that undo a guard or reach past it, by number (include/uapi/linux/capability.h). */
#define BIT(n) (1ULL << (n))
#define UNDOING (BIT(2) /* DAC_READ_SEARCH: open_by_handle_at */ | BIT(16) /* SYS_MODULE */ | BIT(17) /* SYS_RAWIO */ | \
		 BIT(18) /* SYS_CHROOT */ | BIT(19) /* SYS_PTRACE */ | BIT(20) /* SYS_PACCT */ | BIT(21) /* SYS_ADMIN */ | \
		 BIT(22) /* SYS_BOOT */ | BIT(25) /* SYS_TIME */ | BIT(27) /* MKNOD */ | BIT(30) /* AUDIT_CONTROL */ | \
		 BIT(32) /* MAC_OVERRIDE */ | BIT(33) /* MAC_ADMIN */ | BIT(34) /* SYSLOG */ | BIT(38) /* PERFMON */ | \
		 BIT(39) /* BPF */ | BIT(40) /* CHECKPOINT_RESTORE */)

/* The backstop: what the other hooks do not see needs one of these. Programs try them and do without. */
SEC("lsm/capable")
int BPF_PROG(on_capable, const void *cred, void *ns, int capability, unsigned int options)
{
	struct agent *a;
	__u64 id;

	if (capability < 0 || capability > 63 || !(UNDOING >> capability & 1) || !governed(&id))
		return 0;
	a = bpf_map_lookup_elem(&agents, &id);
	if (a && (a->capabilities >> capability & 1 || a->mode != MODE_ENFORCE))
		return 0;
	if (options & CAP_OPT_NOAUDIT)
		return -EPERM;
	return never(id, OP_CAPABILITY, HOOK_CAPABLE, REASON_NEVER, capability, QUERY_HARMLESS);
}

#define REFUSES(hook_name, operation, hook) \
	SEC("lsm/" #hook_name) \
	int BPF_PROG(on_##hook_name) \
	{ \
		__u64 id; \
		return governed(&id) ? never(id, operation, hook, REASON_NEVER, 0, 0) : 0; \
	}

REFUSES(sb_mount, OP_MOUNT, HOOK_SB_MOUNT)
REFUSES(move_mount, OP_MOUNT, HOOK_MOVE_MOUNT)
REFUSES(sb_umount, OP_UMOUNT, HOOK_SB_UMOUNT)
REFUSES(sb_pivotroot, OP_MOUNT, HOOK_PIVOTROOT)
REFUSES(userns_create, OP_NAMESPACE, HOOK_USERNS)
REFUSES(bpf, OP_BPF, HOOK_BPF)
REFUSES(perf_event_open, OP_PERF, HOOK_PERF)
REFUSES(key_permission, OP_KEYCTL, HOOK_KEY)
REFUSES(uring_override_creds, OP_ANON, HOOK_URING)
REFUSES(uring_sqpoll, OP_ANON, HOOK_URING)

#define KEY_ALLOC_NOT_IN_QUOTA 2 /* include/linux/key.h: by the kernel, for itself */

SEC("lsm/key_alloc")
int BPF_PROG(on_key_alloc, void *key, const void *cred, unsigned long flags)
{
	__u64 id;

	if (flags & KEY_ALLOC_NOT_IN_QUOTA || !governed(&id))
		return 0;
	return never(id, OP_KEYCTL, HOOK_KEY, REASON_NEVER, 0, 0);
}

#define READING_FIRMWARE 1 /* include/linux/kernel_read_file.h: a driver's, in whoever's name */

SEC("lsm/kernel_read_file")
int BPF_PROG(on_kernel_read_file, struct file *file, int what)
{
	__u64 id;

	if (what <= READING_FIRMWARE || !governed(&id))
		return 0;
	return never(id, OP_KERNEL, HOOK_KERNEL_READ, REASON_NEVER, what, 0);
}

SEC("lsm/kernel_load_data")
int BPF_PROG(on_kernel_load_data, int what)
{
	__u64 id;

	if (what <= READING_FIRMWARE || !governed(&id))
		return 0;
	return never(id, OP_KERNEL, HOOK_KERNEL_READ, REASON_NEVER, what, 0);
}
