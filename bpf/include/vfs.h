/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The kernel structures that the file guard reads: only the fields that are used, relocated at loading (CO-RE).
 */
#ifndef RAYPHER_VFS_H
#define RAYPHER_VFS_H

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/linux/types.h */
struct list_head {
	struct list_head *next;
};

struct hlist_bl_node {
	struct hlist_bl_node **pprev;
};

/* include/linux/dcache.h */
struct qstr {
	__u32 hash;
	__u32 len;
	const unsigned char *name;
};

struct dentry {
	struct hlist_bl_node d_hash;
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
	struct super_block *d_sb;
};

/* include/linux/fs.h */
struct super_block {
	__u32 s_dev;
	unsigned long s_flags;
	unsigned long s_magic;
	struct dentry *s_root;
	struct list_head s_mounts;
};

struct inode {
	unsigned short i_mode;
	struct super_block *i_sb;
	unsigned long i_ino;
	__u32 i_rdev;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct file {
	struct path f_path;
	struct inode *f_inode;
	unsigned int f_flags;
	unsigned int f_mode;
};

struct iattr {
	unsigned int ia_valid;
};

struct renamedata {
	struct dentry *old_dentry;
	struct dentry *new_dentry;
};

/* include/linux/mount.h, fs/mount.h */
struct vfsmount {
	struct dentry *mnt_root;
	struct super_block *mnt_sb;
};

struct mnt_namespace;

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
	struct list_head mnt_instance;
	struct mnt_namespace *mnt_ns;
};

/* Since 6.17 the mounts of a file system are a list of their own. */
struct super_block___since_6_17 {
	struct mount *s_mounts;
};

struct mount___since_6_17 {
	struct mount *mnt_next_for_sb;
};

/* fs/proc/internal.h */
struct proc_inode {
	struct pid *pid;
	struct inode vfs_inode;
};

/* include/linux/kernfs.h, cgroup-defs.h */
struct kernfs_node {
	__u64 id;
};

struct cgroup {
	int level;
	struct kernfs_node *kn;
	struct cgroup *ancestors[1];
};

struct css_set {
	struct cgroup *dfl_cgrp;
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
};

/* include/linux/sched.h, sched/signal.h, nsproxy.h, cred.h */
struct signal_struct {
	struct pid *pids[4];
};

struct nsproxy {
	struct mnt_namespace *mnt_ns;
};

struct task_struct {
	const struct cred *real_cred;
	const struct cred *cred;
	struct nsproxy *nsproxy;
	struct signal_struct *signal;
	struct css_set *cgroups;
	struct mm_struct *mm;
	unsigned in_execve : 1;
};

/* include/linux/binfmts.h, mm_types.h */
struct linux_binprm {
	struct file *file;
};

struct mm_struct {
	struct file *exe_file;
};

struct vm_area_struct {
	unsigned long vm_flags;
	struct file *vm_file;
};

/* include/net/sock.h, af_unix.h, include/linux/net.h */
struct sock {
	struct sock_cgroup_data sk_cgrp_data;
};

struct unix_address {
	int len;
	char name[110];
};

struct unix_sock {
	struct sock sk;
	struct unix_address *addr;
	struct path path;
};

struct socket {
	struct sock *sk;
};

#pragma clang attribute pop

#define S_IFMT 0170000		/* include/uapi/linux/stat.h */
#define S_IFDIR 0040000
#define S_IFREG 0100000
#define S_IFCHR 0020000
#define S_IFBLK 0060000
#define S_ISUID 04000
#define S_ISGID 02000
#define O_TRUNC 01000		/* include/uapi/asm-generic/fcntl.h */
#define O_NAMELESS 020000000	/* __O_TMPFILE */
#define FMODE_READ 1		/* include/linux/fs.h */
#define FMODE_WRITE 2
#define FMODE_PATH 0x4000
#define FMODE_EXEC 0x20		/* __FMODE_EXEC, in f_flags */
#define MAY_WRITE 2
#define SB_NOUSER (1UL << 31)
#define ATTR_MODE (1 << 0)
#define ATTR_UID (1 << 1)
#define ATTR_GID (1 << 2)
#define ATTR_SIZE (1 << 3)
#define ATTR_ATIME (1 << 4)
#define ATTR_MTIME (1 << 5)
#define PROT_EXEC 4		/* include/uapi/asm-generic/mman-common.h */
#define RENAME_EXCHANGE 2	/* include/uapi/linux/fs.h */
#define CLONE_INTO_CGROUP 0x200000000ULL /* include/uapi/linux/sched.h */
#define PIDTYPE_TGID 1		/* include/linux/pid.h */
#define SIGKILL 9
#define CAP_OPT_NOAUDIT 2	/* include/linux/security.h */

#endif
