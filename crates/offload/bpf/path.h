/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* From what a datagram shows to where it goes: its path, whether that is alive, whether its account
 * covers the datagram, and the next hop. Everything taken from a map is copied first: user space
 * may change it meanwhile. */
#ifndef TURNWAY_PATH_H
#define TURNWAY_PATH_H

#include "maps.h"
#include "packet.h"

#define PATH_WORDS (sizeof(struct path) / 8)
/* How often the pocket is tried for when another core changes it at the same time. */
#define POCKET_TRIES 4

/* Both ports of what leaves, as they lie side by side. */
INLINE __u32 path_ports(const struct path *path)
{
	return *(const __u32 *)&path->from_port;
}

/* What a path's check adds up to by the words of its key. */
INLINE __u64 check_key(const struct seen *seen, __u32 words)
{
	__u64 check = 0;

#pragma unroll
	for (__u32 i = 0; i < words; i++)
		check += seen->words[i] * (PATH_CHECK_KEY + i * PATH_CHECK_STEP);
	return check;
}

/* Copies a path out of the map; false if it was another's, or half another's, by then. */
INLINE bool copy_path(struct path *to, const struct path *from, __u64 check)
{
	const volatile __u64 *in = (const volatile __u64 *)from;
	__u64 *out = (__u64 *)to;

#pragma unroll
	for (__u32 i = 1; i < PATH_WORDS; i++) {
		__u64 word = in[i];

		out[i] = word;
		check += word * (PATH_CHECK_VALUE + i * PATH_CHECK_STEP);
	}
	return in[0] == check;
}

/* FINE: `path` is a copy of the path. */
INLINE int find_path(const struct seen *seen, struct path *path)
{
	const struct path *found;
	__u64 check;

	if (seen->family == 4) {
		check = check_key(seen, sizeof(seen->v4) / 8);
		found = bpf_map_lookup_elem(&paths4, &seen->v4);
		APART(found);
	} else {
		check = check_key(seen, sizeof(seen->v6) / 8);
		found = bpf_map_lookup_elem(&paths6, &seen->v6);
	}
	if (!found)
		return PASS_UNKNOWN;
	return copy_path(path, found, check) ? FINE : PASS_EXPIRED;
}

/* The kernel's coarse clock as of this tick: asking for it costs a call, and so it is asked once in
 * a tick by all. One that another core is just writing may be the last tick's. */
static struct {
	__u64 tick;
	__u64 now_ns;
} clock;

INLINE __u64 coarse_now(void)
{
	__u64 tick = bpf_jiffies64();

	if (READ_ONCE(clock.tick) != tick) {
		*(volatile __u64 *)&clock.now_ns = bpf_ktime_get_coarse_ns();
		*(volatile __u64 *)&clock.tick = tick;
	}
	return READ_ONCE(clock.now_ns);
}

/* The account of a path that is alive. */
INLINE struct account *live_account(const struct path *path, __u64 now)
{
	__u32 index = path->account;
	struct account *account = bpf_map_lookup_elem(&accounts, &index);
	__u64 deadline;

	if (!account)
		return NULL;
	deadline = READ_ONCE(account->deadline_ns);
	if (READ_ONCE(account->generation) != path->generation || deadline <= now)
		return NULL;
	return account;
}

/* Takes so many bytes out of the pocket, or none. */
INLINE bool take(struct account *account, __u32 bytes)
{
	__s64 pocket;

	if (!(READ_ONCE(account->flags) & ACCOUNT_METERED))
		return true;
#pragma unroll
	for (int i = 0; i < POCKET_TRIES; i++) {
		pocket = READ_ONCE(account->pocket);
		if (pocket < (__s64)bytes)
			return false;
		if (__sync_val_compare_and_swap(&account->pocket, pocket, pocket - bytes) == pocket)
			return true;
	}
	return false;
}

/* Puts back what take() took for a datagram that was not sent after all. */
INLINE void put_back(struct account *account, __u32 bytes)
{
	if (READ_ONCE(account->flags) & ACCOUNT_METERED)
		__sync_fetch_and_add(&account->pocket, bytes);
}

INLINE void count_relayed(struct account *account, __u32 bytes)
{
	__sync_fetch_and_add(&account->datagrams, 1);
	__sync_fetch_and_add(&account->bytes, bytes);
}

/* Counts what the pocket does not cover, and says what becomes of it. */
INLINE int refuse(struct account *account, __u32 bytes)
{
	if (!(READ_ONCE(account->flags) & ACCOUNT_SHUT)) {
		__sync_fetch_and_add(&account->passed_bytes, bytes);
		return PASS_LIMIT;
	}
	__sync_fetch_and_add(&account->dropped, 1);
	__sync_fetch_and_add(&account->dropped_bytes, bytes);
	return DROP_LIMIT;
}

/* Asks the kernel which MAC addresses lead from our address to the destination; false unless that
 * is by the interface we know, or where forwarding is off there: then the kernel does not tell. */
INLINE bool ask_fib(struct xdp_md *ctx, const struct path *path, struct hop *hop)
{
	struct bpf_fib_lookup fib = {
		.l4_protocol = IPPROTO_UDP,
		.sport = path->from_port,
		.dport = path->to_port,
		.ifindex = hop->route_ifindex,
	};

	if (path->family == 4) {
		fib.family = 2; /* AF_INET */
		fib.ipv4_src = path->from[0];
		fib.ipv4_dst = path->to[0];
	} else {
		fib.family = 10; /* AF_INET6 */
		__builtin_memcpy(fib.ipv6_src, path->from, 16);
		__builtin_memcpy(fib.ipv6_dst, path->to, 16);
	}
	if (bpf_fib_lookup(ctx, &fib, sizeof(fib), BPF_FIB_LOOKUP_OUTPUT) != BPF_FIB_LKUP_RET_SUCCESS)
		return false;
	__builtin_memcpy(hop->to, fib.dmac, 6);
	__builtin_memcpy(hop->from, fib.smac, 6);
	return fib.ifindex == hop->route_ifindex;
}

/* FINE: `hop` is a copy of the next hop with the right MAC addresses. */
INLINE int find_hop(struct xdp_md *ctx, const struct path *path, struct hop *hop)
{
	__u32 index = path->hop;
	const struct hop *found = bpf_map_lookup_elem(&hops, &index);
	const volatile __u64 *in = (const volatile __u64 *)found;
	__u64 *out = (__u64 *)hop;

	if (!found)
		return PASS_HOP;
	out[0] = in[0];
	out[1] = in[1];
	out[2] = in[2];
	out[3] = in[3];
	if (READ_ONCE(found->stamp) != hop->stamp)
		return PASS_HOP;
	if ((hop->stamp & HOP_STATE) == HOP_FRESH)
		return FINE;
	return (hop->stamp & HOP_STATE) == HOP_ASK && ask_fib(ctx, path, hop) ? FINE : PASS_HOP;
}

#endif
