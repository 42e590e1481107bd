/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* The generator and the sink of the kernel rows: two XDP programs of one interface.
 *
 * `generate` is run by BPF_PROG_TEST_RUN with live frames, once for each frame and a batch at a
 * time: it waits until a burst is due, writes a frame and sends it. `sink` receives what comes back:
 * it counts and drops what was relayed and passes everything else. */
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include "../../../../crates/offload/bpf/helpers.h"
#include "flood.h"

static __u64 (*const bpf_ktime_get_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;
static long (*const bpf_loop)(__u32 times, void *step, void *context, __u64 flags) =
	(void *)BPF_FUNC_loop;
static long (*const bpf_xdp_load_bytes)(struct xdp_md *ctx, __u32 offset, void *to, __u32 length) =
	(void *)BPF_FUNC_xdp_load_bytes;
static void *(*const bpf_ringbuf_reserve)(void *ring, __u64 size, __u64 flags) =
	(void *)BPF_FUNC_ringbuf_reserve;
static void (*const bpf_ringbuf_submit)(void *data, __u64 flags) =
	(void *)BPF_FUNC_ringbuf_submit;

/* Rounds of waiting for a burst: more than any interval has. */
#define ROUNDS (1 << 20)
/* A generator that is so late does not catch up: what it would send at once no ring holds. */
#define LATE_NS 200000

struct {
	NUMBER(type, BPF_MAP_TYPE_ARRAY);
	NUMBER(max_entries, 65536);
	TYPE(key, __u32);
	TYPE(value, struct flow);
} flows SEC(".maps");

struct {
	NUMBER(type, BPF_MAP_TYPE_ARRAY);
	NUMBER(max_entries, 1);
	TYPE(key, __u32);
	TYPE(value, struct run);
} runs SEC(".maps");

struct {
	NUMBER(type, BPF_MAP_TYPE_RINGBUF);
	NUMBER(max_entries, 1 << 24);
} samples SEC(".maps");

struct wait {
	__u64 due;
	__u64 now;
};

static long is_due(__u32 round, struct wait *wait)
{
	wait->now = bpf_ktime_get_ns();
	return wait->now >= wait->due;
}

/* Waits for the next burst and begins it. */
INLINE void begin_burst(struct run *run)
{
	struct wait wait = { .due = run->due_ns, .now = bpf_ktime_get_ns() };
	__u64 arrived = wait.now;

	if (!run->begun_ns) {
		run->begun_ns = arrived;
		run->due_ns = arrived;
	} else if (arrived < wait.due) {
		bpf_loop(ROUNDS, is_due, &wait, 0);
		run->idle_ns += wait.now - arrived;
	} else if (arrived - wait.due > LATE_NS) {
		run->due_ns = arrived;
	}
	run->due_ns += run->interval_ns;
	run->ended_ns = wait.now;
	run->left = run->burst;
}

INLINE __u16 fold(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* Writes the stamp and the checksum that covers it. */
INLINE int stamp(struct xdp_md *ctx, const struct run *run, const struct flow *flow, __u32 at)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct udphdr *udp = data + sizeof(struct ethhdr) + sizeof(struct iphdr);
	struct stamp *stamp = data + at;
	__u64 sum = flow->sum;
	__u16 check;

	if ((void *)(udp + 1) > end || (void *)stamp + 12 > end)
		return XDP_ABORTED;
	stamp->mark = (__u32)run->mark;
	stamp->sequence[0] = (__u32)run->sent;
	stamp->sequence[1] = (__u32)(run->sent >> 32);
	sum += (__u64)stamp->mark + stamp->sequence[0] + stamp->sequence[1];
	/* A transaction ID is all of it. */
	if (at != AT_TRANSACTION) {
		if ((void *)(stamp + 1) > end)
			return XDP_ABORTED;
		stamp->proof = (stamp->mark ^ stamp->sequence[0]) * PROOF + stamp->sequence[1];
		sum += stamp->proof;
	}
	check = ~fold(sum);
	udp->check = check ? check : 0xffff;
	return XDP_TX;
}

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 zero = 0, number;
	struct run *run = bpf_map_lookup_elem(&runs, &zero);
	const __u64 *header;
	struct flow *flow;
	__u64 *out = data;
	int done;

	if (!run || data + HEADER > end)
		return XDP_ABORTED;
	if (!run->left)
		begin_burst(run);
	run->left--;
	number = run->flow;
	run->flow = number + 1 < run->flows ? number + 1 : 0;
	flow = bpf_map_lookup_elem(&flows, &number);
	if (!flow)
		return XDP_ABORTED;
	header = (const __u64 *)flow->header;
#pragma unroll
	for (int i = 0; i < HEADER / 8; i++)
		out[i] = header[i];
	/* Constants, which the verifier can follow. */
	if (run->at_stamp == AT_CHANNEL_PAYLOAD)
		done = stamp(ctx, run, flow, AT_CHANNEL_PAYLOAD);
	else if (run->at_stamp == AT_PAYLOAD)
		done = stamp(ctx, run, flow, AT_PAYLOAD);
	else
		done = stamp(ctx, run, flow, AT_TRANSACTION);
	run->sent++;
	return done;
}

/* Shows user space a frame. */
INLINE void show(struct xdp_md *ctx, struct run *run)
{
	struct sample *sample = bpf_ringbuf_reserve(&samples, sizeof(*sample), 0);
	__u64 length = ctx->data_end - ctx->data;

	if (!sample) {
		run->unseen++;
		return;
	}
	if (length > sizeof(sample->frame))
		length = sizeof(sample->frame);
	sample->length = length;
	if (length == 0 || bpf_xdp_load_bytes(ctx, 0, sample->frame, length))
		sample->length = 0;
	bpf_ringbuf_submit(sample, BPF_RB_NO_WAKEUP);
}

SEC("xdp")
int sink(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	const struct ethhdr *ethernet = data;
	const struct iphdr *ip = (void *)(ethernet + 1);
	__u32 zero = 0;
	struct run *run = bpf_map_lookup_elem(&runs, &zero);
	const __u32 *mark;

	if (!run || (void *)(ip + 1) > end)
		return XDP_PASS;
	mark = data + (run->at_relayed & 63);
	if (ethernet->h_proto != HTONS(ETH_P_IP) || ip->protocol != IPPROTO_UDP ||
	    (void *)(mark + 1) > end || *mark != (__u32)run->mark) {
		run->others++;
		return XDP_PASS;
	}
	run->relayed++;
	if (++run->unshown >= run->every) {
		run->unshown = 0;
		show(ctx, run);
	}
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
