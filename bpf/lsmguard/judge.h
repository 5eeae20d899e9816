/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What is granted: the same answers as package broker's (ruling.go, entries.go), from the object and its path.
 */
#ifndef RAYPHER_LSMGUARD_JUDGE_H
#define RAYPHER_LSMGUARD_JUDGE_H

/* What is known of one place when it is judged. */
struct standing {
	__u32 flags;
	__u32 outcome;		/* of the path */
	__u32 second;		/* of the caller's own name of it */
	__u32 state;		/* of the automaton after the path */
};

static __always_inline void *table_of(__u32 index)
{
	return index ? bpf_map_lookup_elem(&tables, &index) : NULL;
}

static __always_inline bool lenient(const struct agent *a) { return a->mode != MODE_ENFORCE; }

/* run_rules is the state of the rules in a table after a path of a room: the second one, or the object's. Verified once. */
__noinline __u32 run_rules(__u32 table, __u32 number, __u32 second)
{
	struct room *room = room_of(number);
	void *cells = table_of(table);

	if (!room || !cells)
		return AUTOMATON_REFUSED;
	return automaton_walk(cells, second ? room->second : room->event.path, second ?: room->event.length);
}

__noinline __u32 outcome_of(__u32 table, __u32 state)
{
	void *cells = table_of(table);

	return cells ? automaton_outcome(cells, state) : 0;
}

struct view {
	struct place place;
	struct standing standing;
	__u32 table;
};

/* examine finds the path of an object and runs the rules over it. -1: it has no path that can be told. */
__noinline int examine(struct view *v)
{
	struct standing *s;

	if (!v)
		return -1;
	s = &v->standing;
	s->outcome = 0;
	s->second = 0;
	s->state = AUTOMATON_REFUSED;
	if (locate(&v->place))
		return -1;
	s->flags = v->place.flags;
	if (!v->table || s->flags & PLACE_NAMELESS)
		return 0;
	s->state = run_rules(v->table, v->place.room, 0);
	s->outcome = outcome_of(v->table, s->state);
	if (v->place.second)
		s->second = outcome_of(v->table, run_rules(v->table, v->place.room, v->place.second));
	return 0;
}

/* judge decides one access. why is set where it is refused for a reason that is not the policy's. */
static __always_inline enum file_verdict judge(const struct agent *a, const struct standing *s, __u32 access, enum reason *why)
{
	enum file_verdict verdict, other;

	if (s->flags & OBJECT_CLOSED) {
		*why = REASON_CLOSED;
		return FILE_BLOCK;
	}
	if (access & ACCESS_WRITE && (s->flags & OBJECT_SEALED || (s->flags & PLACE_KERNEL && !(s->flags & PLACE_OWN_FILE)))) {
		*why = REASON_SEALED;
		return FILE_BLOCK;
	}
	if (!(access & ACCESS_EXEC) && s->flags & (OBJECT_DEVICE | PLACE_BASE))
		return FILE_ALLOW;
	if (s->flags & PLACE_NAMELESS) {
		*why = REASON_NAMELESS;
		return access & ACCESS_EXEC && a->governed ? FILE_BLOCK : FILE_ALLOW;
	}
	if (!a->governed) {
		if (access & ACCESS_WRITE && s->flags & PLACE_BLOCK) {
			*why = REASON_SEALED;
			return FILE_BLOCK;
		}
		return FILE_ALLOW;
	}
	verdict = file_verdict(s->outcome, access);
	if (verdict == FILE_ALLOW || !(s->flags & PLACE_OWN))
		return verdict;
	other = file_verdict(s->second, access);
	return other > verdict ? other : verdict;
}

struct sum {
	const char *path;
	__u32 length;
	__u64 value;
};

static long sum_step(__u32 i, struct sum *s)
{
	if (i >= s->length)
		return 1;
	s->value = (s->value ^ (__u8)s->path[i & (PATH_BYTES - 1)]) * 0x100000001b3ULL; /* FNV-1a */
	return 0;
}

static __always_inline __u64 path_sum(const char *path, __u32 length)
{
	struct sum s = { .path = path, .length = length, .value = 0xcbf29ce484222325ULL };

	bpf_loop(PATH_BYTES, sum_step, &s, 0);
	return s.value;
}

struct comparison {
	const char *a, *b;
	__u32 length;
	__u32 differs;
};

static long compare_step(__u32 i, struct comparison *c)
{
	if (i >= c->length)
		return 1;
	if (c->a[i & (PATH_BYTES - 1)] == c->b[i & (PATH_BYTES - 1)])
		return 0;
	c->differs = 1;
	return 1;
}

/* permitted says whether a person allowed this access to the path in the room, and uses up a permit for one call. */
__noinline int permitted(struct query *q, __u32 number)
{
	struct room *room = room_of(number);
	struct permit_key key = {};
	struct comparison c = {};
	struct permit *p;
	__u32 length;

	if (!q || !room)
		return false;
	length = room->event.length;
	if (length > PATH_BYTES)
		return false;
	key.cgroup = q->cgroup;
	key.path = path_sum(room->event.path, length);
	p = bpf_map_lookup_elem(&permits, &key);
	if (!p || bpf_ktime_get_boot_ns() >= p->until || q->access & ~p->access || p->length != length)
		return false;
	if (p->thread && p->thread != (__u32)bpf_get_current_pid_tgid())
		return false;
	c.a = room->event.path;
	c.b = p->path;
	c.length = length;
	unknown(&c.differs, sizeof(c.differs));
	bpf_loop(PATH_BYTES, compare_step, &c, 0);
	if (c.differs)
		return false;
	if (!p->once || q->flags & QUERY_PARTIAL)
		return true;
	return !bpf_map_delete_elem(&permits, &key); /* of two calls at once, one */
}

/* What is loaded and not started is named name.so, name.so.1 or name.node: on some systems it has the mode of programs. */
struct naming {
	const char *path;
	__u32 length;
	__u32 library;
};

static __always_inline bool at(const struct naming *n, __u32 i, char c) { return n->path[i & (PATH_BYTES - 1)] == c; }

/* From the end of the path to the last slash. */
static long naming_step(__u32 i, struct naming *n)
{
	__u32 left = i + 1, from = n->length - left;

	if (left > n->length || at(n, from, '/'))
		return 1;
	if (!at(n, from, '.'))
		return 0;
	n->library = (left == 3 || (left > 3 && at(n, from + 3, '.'))) && at(n, from + 1, 's') && at(n, from + 2, 'o');
	if (left == 5 && at(n, from + 1, 'n') && at(n, from + 2, 'o') && at(n, from + 3, 'd') && at(n, from + 4, 'e'))
		n->library = 1;
	return n->library;
}

__noinline int named_as_library(__u32 number)
{
	struct room *room = room_of(number);
	struct naming n = {};

	if (!room)
		return 0;
	n.path = room->event.path;
	n.length = room->event.length;
	unknown(&n.library, sizeof(n.library));
	bpf_loop(NAME_MAX + 1, naming_step, &n, 0);
	return !!n.library;
}

/*
 * A mapping for execution, where no rule grants exec: libraries are granted by being read, unless the agent may write them. What it
 * wrote itself never is, and a program by an exec rule only.
 */
static __always_inline bool library(__u32 number, const struct agent *a, const struct standing *s)
{
	enum reason why;

	if (judge(a, s, ACCESS_READ, &why) != FILE_ALLOW || judge(a, s, ACCESS_WRITE, &why) != FILE_BLOCK)
		return false;
	return !(s->flags & PLACE_PROGRAM) || named_as_library(number);
}

/* The kernel itself opens and maps the loader of what it executes. */
static __always_inline bool loads(const struct query *q, __u32 flags)
{
	return flags & OBJECT_LOADER && q->access & ACCESS_EXEC && !(q->flags & QUERY_FORCE);
}

static __always_inline bool answer(__u32 number, struct agent *a, struct query *q, struct standing *s, enum reason *why)
{
	enum file_verdict verdict;

	if (q->flags & QUERY_SOCKET && s->flags & OBJECT_SOCKET)
		return true;
	verdict = judge(a, s, q->access, why);
	if (verdict == FILE_ALLOW)
		return true;
	if (verdict == FILE_APPROVAL) {
		*why = REASON_APPROVAL;
		return q->flags & QUERY_EXECUTED || permitted(q, number);
	}
	if (s->flags & PLACE_NAMELESS && !(s->flags & OBJECT_CLOSED)) /* compilers at run time write through a second mapping */
		return q->flags & QUERY_SHARED;
	if (s->flags & OBJECT_CLOSED)
		return false;
	if (loads(q, s->flags))
		return true;
	return q->flags & QUERY_MAP && library(number, a, s);
}

__noinline int decide_query(struct query *q)
{
	enum reason why = REASON_NOT_GRANTED, unused;
	struct view v = {};
	struct agent *a;
	__u64 id;
	int error = 0, known;

	if (!q)
		return -EACCES;
	id = q->cgroup;
	q->allowed = 0;
	v.place.room = take_room();
	if (v.place.room >= ROOMS)
		return -EACCES;
	a = bpf_map_lookup_elem(&agents, &id);
	if (!a) {
		error = refuse(q, v.place.room, 0, REASON_UNKNOWN_AGENT);
		goto out;
	}
	v.place.dentry = q->dentry;
	v.place.mount = q->mount;
	v.place.number = a->number;
	v.table = q->flags & QUERY_SOCKET ? a->sockets : a->files;
	known = !v.place.dentry ? -1 : examine(&v);
	why = q->reason;
	if (bpf_ktime_get_boot_ns() >= a->deadline)
		why = REASON_EXPIRED;
	else if (!why && known)
		why = REASON_UNREADABLE;
	if (why || !answer(v.place.room, a, q, &v.standing, &why)) {
		error = refuse(q, v.place.room, v.standing.outcome, why);
		goto out;
	}
	if (!(v.standing.flags & (PLACE_OWN | PLACE_NAMELESS)) && !(q->flags & QUERY_SOCKET)) {
		q->deadline = a->deadline;
		if (judge(a, &v.standing, ACCESS_READ, &unused) == FILE_ALLOW)
			q->allowed |= ACCESS_READ;
		if (judge(a, &v.standing, ACCESS_WRITE, &unused) == FILE_ALLOW)
			q->allowed |= ACCESS_WRITE;
		if (judge(a, &v.standing, ACCESS_EXEC, &unused) == FILE_ALLOW)
			q->allowed |= ACCESS_EXEC;
	}
out:
	leave_room(v.place.room);
	return error;
}

/* decide answers one question: 0, or the negative errno that the hook returns. */
static __always_inline int decide(struct query *q) { return returned(decide_query(q)); }

/* Two entries of folders, of which one becomes the other. */
struct pair {
	struct query to;	/* the new one; what is reported */
	__u64 dentry;		/* the old one */
	__u64 mount;
	__u32 exchange;
	__u32 link;
};

/* wider says whether an object could be used in a new way at another place. */
static __always_inline bool wider(const struct agent *a, const struct standing *from, const struct standing *to)
{
	enum reason why;
	__u32 access;

#pragma unroll
	for (access = 1; access <= 4; access <<= 1)
		if (judge(a, to, access, &why) > judge(a, from, access, &why))
			return true;
	return false;
}

/*
 * wider_below is the same for what may lie below a folder: let through where the rules go on alike at both places, or grant
 * one and the same everywhere below each, and not more than before.
 */
static __always_inline bool wider_below(const struct agent *a, const struct standing *from, const struct standing *to)
{
	struct standing before = *from, after = *to;
	void *cells = table_of(a->files);
	__s32 old, new;
	__u32 x, y;

	if (!cells)
		return false;
	x = automaton_next(cells, from->state, '/');
	y = automaton_next(cells, to->state, '/');
	if (x == y)
		return false;
	old = automaton_below(cells, from->state);
	new = automaton_below(cells, to->state);
	if (old == AUTOMATON_DIFFERS || new == AUTOMATON_DIFFERS)
		return true;
	before.outcome = old;
	after.outcome = new;
	return wider(a, &before, &after);
}

/* settle decides on one side of a pair: what is written there. */
static __always_inline int settle(struct agent *a, struct pair *pair, struct view *v, bool write)
{
	enum reason why = REASON_NOT_GRANTED;

	if (examine(v))
		return refuse(&pair->to, v->place.room, 0, REASON_UNREADABLE) ?: 1;
	if (!write)
		return 0;
	if (v->standing.flags & OBJECT_HOLDS)
		why = REASON_SEALED;
	if (why || !answer(v->place.room, a, &pair->to, &v->standing, &why))
		return refuse(&pair->to, v->place.room, v->standing.outcome, why) ?: 1;
	return 0;
}

__noinline int decide_both(struct pair *pair)
{
	struct standing from, to;
	struct view v = {};
	struct agent *a;
	__u64 id;
	__u32 what;
	int error = 0;
	bool widens;

	if (!pair)
		return -EACCES;
	id = pair->to.cgroup;
	v.place.room = take_room();
	if (v.place.room >= ROOMS)
		return -EACCES;
	a = bpf_map_lookup_elem(&agents, &id);
	if (!a || bpf_ktime_get_boot_ns() >= a->deadline) {
		error = refuse(&pair->to, v.place.room, 0, a ? REASON_EXPIRED : REASON_UNKNOWN_AGENT);
		goto out;
	}
	v.place.number = a->number;
	v.table = a->files;
	v.place.dentry = pair->dentry;
	v.place.mount = pair->mount;
	error = settle(a, pair, &v, !pair->link);
	if (error)
		goto out;
	from = v.standing;
	/* Objects are closed and sealed by where they lie too: a second name elsewhere would be open. */
	if (pair->link && from.flags & (OBJECT_CLOSED | OBJECT_SEALED)) {
		pair->to.error = EXDEV;
		error = refuse(&pair->to, v.place.room, from.outcome, REASON_WIDENS);
		goto out;
	}
	v.place.dentry = pair->to.dentry;
	v.place.mount = pair->to.mount;
	error = settle(a, pair, &v, true);
	if (error || !a->governed)
		goto out;
	to = v.standing;
	what = (from.flags & PLACE_FOLDER) | (pair->exchange ? to.flags & PLACE_FOLDER : 0);
	/* The object's own flags come along: only its place changes. */
	from.flags = to.flags = 0;
	widens = wider(a, &from, &to) || (pair->exchange && wider(a, &to, &from));
	if (!widens && what)
		widens = wider_below(a, &from, &to) || (pair->exchange && wider_below(a, &to, &from));
	if (widens) {
		/* What is reported is the object, by the name that it has. */
		v.place.dentry = pair->dentry;
		v.place.mount = pair->mount;
		if (examine(&v))
			v.standing.outcome = 0;
		pair->to.error = EXDEV;
		error = refuse(&pair->to, v.place.room, from.outcome, REASON_WIDENS);
	}
out:
	leave_room(v.place.room);
	return error > 0 ? 0 : error; /* 1: refused, and let pass by the mode */
}

/* decide_pair answers for a link or a rename. */
static __always_inline int decide_pair(struct pair *pair) { return returned(decide_both(pair)); }

#endif
