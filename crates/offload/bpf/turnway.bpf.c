/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* The data path in the kernel: relays ChannelData between UDP clients and their peers, and answers
 * STUN Binding requests, before the kernel's network stack sees them. It decides nothing: user
 * space says by its maps what is to be relayed, from where to where, how much and how long (abi.h).
 * Whatever is not exactly that goes up the stack as it came, so that a miss costs speed only.
 *
 * In reading order: packet.h (what arrived), path.h (where it goes), rewrite.h (what leaves),
 * relay.h (the order of things), binding.h; maps.h, checksum.h and helpers.h are what they use. */
#include "binding.h"
#include "relay.h"

INLINE void count(__u32 outcome)
{
	__u64 *counter = bpf_map_lookup_elem(&outcomes, &outcome);

	if (counter)
		*counter += 1;
}

/* An answer leaves by the interface that the request came in by. */
INLINE int send_back(struct xdp_md *ctx)
{
	__u32 zero = 0;
	const struct settings *setting = bpf_map_lookup_elem(&settings, &zero);

	if (setting && setting->flags & SETTINGS_REDIRECT)
		return bpf_redirect(ctx->ingress_ifindex, 0);
	return XDP_TX;
}

INLINE int decide(struct xdp_md *ctx)
{
	struct datagram in;
	int done;

	ON_STACK(in);
	done = parse(ctx, &in);
	if (done != FINE)
		return done;
	/* Peers send STUN as well; a listener is no relayed transport address. */
	if (UNLIKELY(!(*(const __u8 *)&in.first & 0xc0))) {
		done = binding(ctx, &in);
		if (done != STRANGER)
			return done;
	}
	return relay(ctx, &in);
}

SEC("xdp")
int turnway(struct xdp_md *ctx)
{
	int done = decide(ctx);

	if (done == TRANSMIT)
		return XDP_TX;
	if (done == REDIRECT)
		return XDP_REDIRECT;
	if (done >= OUTCOMES)
		return XDP_PASS;
	count(done);
	if (done == BINDING_ANSWERED)
		return send_back(ctx);
	return done == BINDING_LIMITED || done == DROP_LIMIT ? XDP_DROP : XDP_PASS;
}

/* A self-test: whether the driver leaves the room that the longest new header needs, a prefix and
 * IPv6 for IPv4 and a VLAN tag. */
#define NEEDED 28

SEC("xdp")
int probe(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct probed *counts = bpf_map_lookup_elem(&probed, &zero);

	if (!counts)
		return XDP_PASS;
	__sync_fetch_and_add(&counts->seen, 1);
	if (bpf_xdp_adjust_head(ctx, -NEEDED) || bpf_xdp_adjust_head(ctx, NEEDED))
		__sync_fetch_and_add(&counts->failed, 1);
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
