/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* The kernel's helpers that the program calls, by their numbers in linux/bpf.h, and how a map and a
 * section are declared. */
#ifndef TURNWAY_HELPERS_H
#define TURNWAY_HELPERS_H

#include <linux/bpf.h>
#include <linux/types.h>

/* clang's own, which need no header of a C library. */
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)

#define SEC(name) __attribute__((section(name), used))
/* A call of one BPF function by another costs more than most of what we do. */
#define INLINE static inline __attribute__((always_inline))
#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

/* A map's definition, as libbpf and aya read it from the types. */
#define NUMBER(name, value) int (*name)[value]
#define TYPE(name, value) typeof(value) *name

/* Keeps a variable on the stack, where every path through the program finds it: taken apart into
 * registers, the parts that only one family has would be read before they are written. */
#define ON_STACK(x) asm volatile("" : : "r"(&(x)) : "memory")

/* An assignment to itself that the compiler does not see through. Two branches that differ by it
 * are not merged: a lookup in either of two maps is a slow call, one in a known map is not. */
#define APART(x) asm volatile("%0 = %0" : "+r"(x))

#define READ_ONCE(x) (*(const volatile typeof(x) *)&(x))

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define HTONS(x) ((__be16)__builtin_bswap16(x))
#define HTONL(x) ((__be32)__builtin_bswap32(x))
#else
#define HTONS(x) ((__be16)(x))
#define HTONL(x) ((__be32)(x))
#endif
#define NTOHS(x) ((__u16)HTONS(x))
#define NTOHL(x) ((__u32)HTONL(x))

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) =
	(void *)BPF_FUNC_map_lookup_elem;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value,
					 __u64 flags) = (void *)BPF_FUNC_map_update_elem;
static __u32 (*const bpf_get_prandom_u32)(void) = (void *)BPF_FUNC_get_prandom_u32;
static long (*const bpf_xdp_adjust_head)(struct xdp_md *ctx, int delta) =
	(void *)BPF_FUNC_xdp_adjust_head;
static long (*const bpf_xdp_adjust_tail)(struct xdp_md *ctx, int delta) =
	(void *)BPF_FUNC_xdp_adjust_tail;
static long (*const bpf_redirect)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect;
static long (*const bpf_redirect_map)(void *map, __u64 key, __u64 flags) =
	(void *)BPF_FUNC_redirect_map;
static long (*const bpf_fib_lookup)(void *ctx, struct bpf_fib_lookup *params, int size,
				    __u32 flags) = (void *)BPF_FUNC_fib_lookup;
static __u64 (*const bpf_ktime_get_coarse_ns)(void) = (void *)BPF_FUNC_ktime_get_coarse_ns;

/* No call: the verifier puts a load in its place. */
static __u64 (*const bpf_jiffies64)(void) = (void *)BPF_FUNC_jiffies64;

#endif
