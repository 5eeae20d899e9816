/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Programs that are executed: the path of the program and of each interpreter of a script, and the content of those that the
 * permit knows by its SHA-256. Each program returns 0 or a negative errno.
 */

SEC("lsm/bprm_check_security")
int BPF_PROG(on_exec, struct linux_binprm *bprm)
{
	struct query q = { .hook = HOOK_BPRM_CHECK, .operation = OP_EXEC, .access = ACCESS_EXEC, .flags = QUERY_FORCE };

	if (!governed(&q.cgroup))
		return 0;
	q.dentry = (__u64)bprm->file->f_path.dentry;
	q.mount = (__u64)bprm->file->f_path.mnt;
	return decide(&q);
}

/* hashed says whether the permit knows the program of a path by its content, and by which: 1, 0, or a negative errno. */
__noinline int hashed(struct query *q, struct hash *want)
{
	struct hash_key key = {};
	struct place p = {};
	struct room *room;
	struct hash *known;
	struct agent *a;
	__u64 id;
	int found = 0;

	if (!q || !want)
		return -EACCES;
	id = q->cgroup;
	a = bpf_map_lookup_elem(&agents, &id);
	if (!a || !a->hashes)
		return 0;
	p.room = take_room();
	room = room_of(p.room);
	if (!room)
		return -EACCES;
	p.dentry = q->dentry;
	p.mount = q->mount;
	if (locate(&p)) {
		found = -EACCES;
	} else {
		key.number = a->number;
		key.version = a->version;
		key.path = path_sum(room->event.path, room->event.length);
		known = bpf_map_lookup_elem(&hashes, &key);
		if (known) {
			*want = *known;
			found = 1;
		}
	}
	leave_room(p.room);
	return found;
}

#define HASH_ALGO_SHA256 4 /* include/uapi/linux/hash_info.h */

/* Sleeps: it reads the file, unless the kernel knows its content already. Needs CONFIG_IMA, and no policy of it. */
SEC("lsm.s/bprm_check_security")
int BPF_PROG(on_exec_content, struct linux_binprm *bprm)
{
	struct query q = { .hook = HOOK_BPRM_CHECK, .operation = OP_EXEC, .access = ACCESS_EXEC };
	struct hash want = {}, have = {};
	int known;

	if (!governed(&q.cgroup))
		return 0;
	q.dentry = (__u64)bprm->file->f_path.dentry;
	q.mount = (__u64)bprm->file->f_path.mnt;
	known = hashed(&q, &want);
	if (!known)
		return 0;
	if (known == 1 && bpf_ima_file_hash(bprm->file, &have, sizeof(have)) == HASH_ALGO_SHA256 &&
	    same(&have, &want, sizeof(have)))
		return 0;
	q.reason = REASON_HASH;
	return decide(&q);
}

/*
 * A program that is known by its content is mapped by the kernel, in an execve whose content was looked at; not by another
 * program (ld.so).
 */
SEC("lsm/mmap_file")
int BPF_PROG(on_mmap_content, struct file *file, unsigned long asked, unsigned long prot)
{
	struct query q = { .hook = HOOK_MMAP_FILE, .operation = OP_MAP_EXEC, .access = ACCESS_EXEC };
	struct hash want = {};
	struct task_struct *task;

	if (!(prot & PROT_EXEC) || !file || !governed(&q.cgroup))
		return 0;
	q.dentry = (__u64)file->f_path.dentry;
	q.mount = (__u64)file->f_path.mnt;
	if (!hashed(&q, &want))
		return 0;
	task = (void *)bpf_get_current_task();
	if (bpf_core_field_exists(task->in_execve) && BPF_CORE_READ_BITFIELD_PROBED(task, in_execve))
		return 0;
	q.reason = REASON_HASH;
	return decide(&q);
}
