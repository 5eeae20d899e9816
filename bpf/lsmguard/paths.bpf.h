/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Entries of folders, and what is done to files by their path. Each program returns 0 or a negative errno. Writing is what all
 * of them need; a link or a rename must not widen what may be done with a file.
 */

#define WRITES(name, operation_, hook_) \
	struct query name = { .hook = hook_, .operation = operation_, .access = ACCESS_WRITE }

static __always_inline int on_entry(struct query *q, const struct path *folder, struct dentry *dentry)
{
	q->dentry = (__u64)dentry;
	q->mount = (__u64)folder->mnt;
	return decide(q);
}

static __always_inline int on_path(struct query *q, const struct path *path)
{
	q->dentry = (__u64)path->dentry;
	q->mount = (__u64)path->mnt;
	return decide(q);
}

/* Also what open creates; file_open follows then, and a permit for one call must last until there. */
SEC("lsm/path_mknod")
int BPF_PROG(on_path_mknod, const struct path *folder, struct dentry *dentry, unsigned short mode, unsigned int device)
{
	WRITES(q, OP_CREATE, HOOK_PATH_MKNOD);
	__u32 kind = mode & S_IFMT;

	if (!governed(&q.cgroup))
		return 0;
	if (kind == S_IFREG || !kind)
		q.flags = QUERY_PARTIAL;
	else
		q.operation = OP_MKNOD;
	if (kind == S_IFBLK || (kind == S_IFCHR && device)) {
		q.reason = REASON_NEVER;
		q.error = EPERM;
	} else if (mode & (S_ISUID | S_ISGID)) {
		q.reason = REASON_SETID;
		q.error = EPERM;
	}
	return on_entry(&q, folder, dentry);
}

SEC("lsm/path_mkdir")
int BPF_PROG(on_path_mkdir, const struct path *folder, struct dentry *dentry)
{
	WRITES(q, OP_MKDIR, HOOK_PATH_MKDIR);

	return governed(&q.cgroup) ? on_entry(&q, folder, dentry) : 0;
}

SEC("lsm/path_symlink")
int BPF_PROG(on_path_symlink, const struct path *folder, struct dentry *dentry)
{
	WRITES(q, OP_SYMLINK, HOOK_PATH_SYMLINK);

	return governed(&q.cgroup) ? on_entry(&q, folder, dentry) : 0;
}

SEC("lsm/path_unlink")
int BPF_PROG(on_path_unlink, const struct path *folder, struct dentry *dentry)
{
	WRITES(q, OP_UNLINK, HOOK_PATH_UNLINK);

	return governed(&q.cgroup) ? on_entry(&q, folder, dentry) : 0;
}

SEC("lsm/path_rmdir")
int BPF_PROG(on_path_rmdir, const struct path *folder, struct dentry *dentry)
{
	WRITES(q, OP_RMDIR, HOOK_PATH_RMDIR);

	return governed(&q.cgroup) ? on_entry(&q, folder, dentry) : 0;
}

/* The old name has no mount of its own here: links do not cross mounts. */
SEC("lsm/path_link")
int BPF_PROG(on_path_link, struct dentry *old, const struct path *folder, struct dentry *new)
{
	struct pair pair = { .to = { .hook = HOOK_PATH_LINK, .operation = OP_LINK, .access = ACCESS_WRITE }, .link = 1 };

	if (!governed(&pair.to.cgroup))
		return 0;
	pair.dentry = (__u64)old;
	pair.mount = pair.to.mount = (__u64)folder->mnt;
	pair.to.dentry = (__u64)new;
	return decide_pair(&pair);
}

SEC("lsm/path_rename")
int BPF_PROG(on_path_rename, const struct path *old_folder, struct dentry *old, const struct path *new_folder, struct dentry *new,
	     unsigned int flags)
{
	struct pair pair = { .to = { .hook = HOOK_PATH_RENAME, .operation = OP_RENAME, .access = ACCESS_WRITE } };

	if (!governed(&pair.to.cgroup))
		return 0;
	pair.dentry = (__u64)old;
	pair.mount = (__u64)old_folder->mnt;
	pair.to.dentry = (__u64)new;
	pair.to.mount = (__u64)new_folder->mnt;
	pair.exchange = flags & RENAME_EXCHANGE;
	return decide_pair(&pair);
}

/* Set-user-id bits make others act for the agent; set-group-id on a folder only says whom its files belong to. */
SEC("lsm/path_chmod")
int BPF_PROG(on_path_chmod, const struct path *path, unsigned short mode)
{
	WRITES(q, OP_CHMOD, HOOK_PATH_CHMOD);

	if (!governed(&q.cgroup))
		return 0;
	if (mode & S_ISUID || (mode & S_ISGID && (path->dentry->d_inode->i_mode & S_IFMT) != S_IFDIR)) {
		q.reason = REASON_SETID;
		q.error = EPERM;
	}
	return on_path(&q, path);
}

SEC("lsm/path_chown")
int BPF_PROG(on_path_chown, const struct path *path)
{
	WRITES(q, OP_CHOWN, HOOK_PATH_CHOWN);

	return governed(&q.cgroup) ? on_path(&q, path) : 0;
}

SEC("lsm/path_truncate")
int BPF_PROG(on_path_truncate, const struct path *path)
{
	WRITES(q, OP_TRUNCATE, HOOK_PATH_TRUNCATE);

	return governed(&q.cgroup) ? on_path(&q, path) : 0;
}

/* Paths would mean something else to the program than to the person who wrote its rules. */
SEC("lsm/path_chroot")
int BPF_PROG(on_path_chroot, const struct path *path)
{
	WRITES(q, OP_CHROOT, HOOK_PATH_CHROOT);

	if (!governed(&q.cgroup))
		return 0;
	q.reason = REASON_NEVER;
	q.error = EPERM;
	return on_path(&q, path);
}

/*
 * Hooks that are told an inode's dentry and not its mount. What a file system does to another one below it, as overlayfs does
 * under credentials of its own, was decided above.
 */
static __always_inline bool for_itself(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, cred) != BPF_CORE_READ(task, real_cred);
}

static __always_inline int on_dentry(struct query *q, struct dentry *dentry)
{
	if (!governed(&q->cgroup) || for_itself())
		return 0;
	q->dentry = (__u64)dentry;
	return decide(q);
}

static __always_inline bool only_times(struct iattr *attributes)
{
	__u32 valid = BPF_CORE_READ(attributes, ia_valid);

	return valid & (ATTR_ATIME | ATTR_MTIME) && !(valid & (ATTR_MODE | ATTR_UID | ATTR_GID | ATTR_SIZE));
}

/* utimes. The other changes have hooks of their own, with a path. */
SEC("lsm/inode_setattr")
int BPF_PROG(on_inode_setattr, void *map, struct dentry *dentry, struct iattr *attributes)
{
	WRITES(q, OP_UTIMES, HOOK_INODE_SETATTR);

	return only_times(attributes) ? on_dentry(&q, dentry) : 0;
}

/* Before 6.8 the hook has no map of identities. */
SEC("lsm/inode_setattr")
int BPF_PROG(on_inode_setattr_without_map, struct dentry *dentry, struct iattr *attributes)
{
	WRITES(q, OP_UTIMES, HOOK_INODE_SETATTR);

	return only_times(attributes) ? on_dentry(&q, dentry) : 0;
}

SEC("lsm/inode_setxattr")
int BPF_PROG(on_inode_setxattr, void *map, struct dentry *dentry)
{
	WRITES(q, OP_SETXATTR, HOOK_INODE_SETXATTR);

	return on_dentry(&q, dentry);
}

SEC("lsm/inode_removexattr")
int BPF_PROG(on_inode_removexattr, void *map, struct dentry *dentry)
{
	WRITES(q, OP_REMOVEXATTR, HOOK_INODE_REMOVEXATTR);

	return on_dentry(&q, dentry);
}

/* Since 6.2; before, access lists are attributes like others. */
SEC("lsm/inode_set_acl")
int BPF_PROG(on_inode_set_acl, void *map, struct dentry *dentry)
{
	WRITES(q, OP_SETXATTR, HOOK_INODE_SET_ACL);

	return on_dentry(&q, dentry);
}

SEC("lsm/inode_remove_acl")
int BPF_PROG(on_inode_remove_acl, void *map, struct dentry *dentry)
{
	WRITES(q, OP_REMOVEXATTR, HOOK_INODE_REMOVE_ACL);

	return on_dentry(&q, dentry);
}

/* Verdicts end when a folder has moved, whoever moved it: afterwards, or one could be made of the old name meanwhile. */
SEC("fexit/vfs_rename")
int BPF_PROG(after_rename, struct renamedata *what)
{
	struct inode *old = BPF_CORE_READ(what, old_dentry, d_inode), *new = BPF_CORE_READ(what, new_dentry, d_inode);

	if ((old && (BPF_CORE_READ(old, i_mode) & S_IFMT) == S_IFDIR) || (new && (BPF_CORE_READ(new, i_mode) & S_IFMT) == S_IFDIR))
		__sync_fetch_and_add(&verdict_generation, 1);
	return 0;
}
