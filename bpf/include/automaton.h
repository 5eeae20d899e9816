/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The file rules of one agent, run over a path: package policy (table.go) compiles them into an array of cells, which an array
 * map holds as they are, and this is what walks it. Two programs agree on the layout here: policy.Cell and struct cell.
 *
 * A state is the index of its own cell. The cell of state s and byte c is at s + c, and is that state's when its owner is s;
 * otherwise the byte leads where the state's own cell says. So each byte costs one or two lookups, whatever the rules are.
 *
 *	own cell of s	owner: AUTOMATON_OWN | outcome		next: the state after every byte without a cell of its own
 *	s + c		owner: s				next: the state after c
 *
 * States 0 (nothing matches, whatever follows) and 1 (nothing read) are the same in each table.
 */
#ifndef RAYPHER_AUTOMATON_H
#define RAYPHER_AUTOMATON_H

struct cell {
	__u32 owner;
	__u32 next;
};

#define AUTOMATON_REFUSED 0
#define AUTOMATON_START 1
#define AUTOMATON_PATH_MAX 4096 /* PATH_MAX; the memory that holds a path must have this size */

/* An outcome: which lists of the policy a path is in, one that decides alone (deny) without the others. */
#define OUTCOME_READ (1U << 0)
#define OUTCOME_WRITE (1U << 1)
#define OUTCOME_EXEC (1U << 2)
#define OUTCOME_DENY (1U << 3)
#define OUTCOME_APPROVAL (1U << 4)
#define OUTCOME_NAMED (OUTCOME_READ | OUTCOME_WRITE | OUTCOME_EXEC)
#define OUTCOME_LISTS 31U
/* Every path that goes on from here is in the same lists: those in the five bits that follow. */
#define OUTCOME_UNIFORM (1U << 5)
#define OUTCOME_SHARED_SHIFT 6
/* One more than the index of the rule that denies, or else asks (policy.Table.Rules); 0: none. */
#define OUTCOME_RULE_SHIFT 11
#define AUTOMATON_OWN (1U << 31)

/* policy.Access */
#define ACCESS_READ (1U << 0)
#define ACCESS_WRITE (1U << 1)
#define ACCESS_EXEC (1U << 2)

/* policy.Verdict; greater is wider */
enum file_verdict {
	FILE_BLOCK,
	FILE_APPROVAL,
	FILE_ALLOW,
};

/* file_verdict is what an outcome means for one access: policy's mask.verdict. An outcome with exec has read too. */
static __always_inline enum file_verdict file_verdict(__u32 outcome, __u32 access)
{
	__u32 granted = !(access & ~outcome & OUTCOME_NAMED);

	if (!access || outcome & OUTCOME_DENY)
		return FILE_BLOCK;
	if (outcome & OUTCOME_APPROVAL)
		return granted || !(outcome & OUTCOME_NAMED) ? FILE_APPROVAL : FILE_BLOCK;
	return granted ? FILE_ALLOW : FILE_BLOCK;
}

/* automaton_next is the state after one byte. A table that is damaged leads to AUTOMATON_REFUSED. */
static __always_inline __u32 automaton_next(void *cells, __u32 state, __u8 byte)
{
	__u32 at = state + byte;
	struct cell *cell = bpf_map_lookup_elem(cells, &at);

	if (!cell || cell->owner != state) {
		cell = bpf_map_lookup_elem(cells, &state);
		if (!cell)
			return AUTOMATON_REFUSED;
	}
	return cell->next;
}

/* automaton_outcome is the outcome of the path that led to state. */
static __always_inline __u32 automaton_outcome(void *cells, __u32 state)
{
	struct cell *cell = bpf_map_lookup_elem(cells, &state);

	if (!cell || !(cell->owner & AUTOMATON_OWN))
		return 0;
	return cell->owner & ~AUTOMATON_OWN;
}

#define AUTOMATON_STRIDE 8 /* bytes walked per call of bpf_loop: a loop that verifies fast, in each program that has it */

struct automaton_walk {
	void *cells;
	const char *path;
	__u32 length;
	__u32 state;
};

static long automaton_stride(__u32 stride, struct automaton_walk *walk)
{
	for (__u32 i = 0; i < AUTOMATON_STRIDE; i++) {
		__u32 at = stride * AUTOMATON_STRIDE + i;

		if (at >= walk->length || walk->state == AUTOMATON_REFUSED)
			return 1;
		walk->state = automaton_next(walk->cells, walk->state, walk->path[at & (AUTOMATON_PATH_MAX - 1)]);
	}
	return 0;
}

/*
 * automaton_walk is the state after the length bytes of path, which start with a slash and have no NUL among them. cells is the
 * agent's map (the inner one, where it lies in another); path has AUTOMATON_PATH_MAX bytes of memory, however long it is. A
 * longer path is AUTOMATON_REFUSED.
 */
static __always_inline __u32 automaton_walk(void *cells, const char *path, __u32 length)
{
	struct automaton_walk walk = { .cells = cells, .path = path, .length = length };

	/* A start that the verifier does not know: it looks at a stride once, and not at the first one and at the others. */
	walk.state = AUTOMATON_START + (length >> 13);
	asm volatile("" : "+r"(walk.state));
	if (length > AUTOMATON_PATH_MAX)
		return AUTOMATON_REFUSED;
	bpf_loop(AUTOMATON_PATH_MAX / AUTOMATON_STRIDE, automaton_stride, &walk, 0);
	return walk.state;
}

#define AUTOMATON_DIFFERS (-1)

/*
 * automaton_below is the lists that everything below the folder of state is in (OUTCOME_LISTS), or AUTOMATON_DIFFERS. Moving a
 * folder between two places whose lists are equal, themselves and below, changes no verdict.
 */
static __always_inline __s32 automaton_below(void *cells, __u32 state)
{
	__u32 outcome = automaton_outcome(cells, automaton_next(cells, state, '/'));

	return outcome & OUTCOME_UNIFORM ? (__s32)(outcome >> OUTCOME_SHARED_SHIFT & OUTCOME_LISTS) : AUTOMATON_DIFFERS;
}

#endif
