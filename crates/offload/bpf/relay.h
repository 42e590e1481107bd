/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* A datagram on its way through the relay: all checks first, then what it costs, then the headers,
 * and last the counters. What is passed up is as it came. */
#ifndef TURNWAY_RELAY_H
#define TURNWAY_RELAY_H

#include "rewrite.h"

/* What else than an outcome becomes of a datagram. */
#define TRANSMIT (OUTCOMES + 2)
#define REDIRECT (OUTCOMES + 3)

/* Longest datagram whose padding is looked at: the verifier wants to know a bound. */
#define OFFSET_MAX 0x7fff

/* The accounts a datagram is charged to: the second one where it goes from one relayed transport
 * address to another. */
struct charged {
	struct account *first;
	struct account *second;
};

/* Whether the payload begins as ChannelData does: RFC 8656 section 12, and clients of RFC 5766,
 * which had numbers up to 0x7FFF. Which of them are bound user space knows. */
INLINE bool looks_like_channel_data(const struct datagram *in)
{
	return (*(const __u8 *)&in->first & 0xc0) == 0x40;
}

/* Padding of ChannelData in the checksum: up to three bytes behind `length` bytes of payload. */
INLINE __u32 sum_padding(struct xdp_md *ctx, __u32 offset, __u32 length, __u32 padding)
{
	__u32 sum = 0;

	if (offset > OFFSET_MAX)
		return 0;
#pragma unroll
	for (__u32 i = 0; i < 3; i++) {
		const __u8 *byte = (const void *)(long)ctx->data + offset + i;

		if (i < padding && (const void *)(byte + 1) <= (const void *)(long)ctx->data_end)
			sum += (length + i) & 1 ? HTONS(*byte) : HTONS(*byte << 8);
	}
	return sum;
}

/* The path of a client's ChannelData, whose length must be the datagram's but for padding. */
INLINE int find_from_client(struct xdp_md *ctx, struct datagram *in, struct outgoing *out)
{
	__u32 length = NTOHL(in->first) & 0xffff;
	__u32 padding = in->udp_length - UDP - CHANNEL_HEADER - length;
	int found;

	if (padding > 3)
		return PASS_LENGTH;
	set_channel(&in->seen, in->first & HTONL(0xffff0000));
	found = find_path(&in->seen, &out->path);
	set_channel(&in->seen, 0);
	if (found != FINE)
		return found;
	out->length = length;
	out->stripped = in->first;
	out->cut = in->behind + padding;
	if (padding) {
		__u32 offset = in->front + CHANNEL_HEADER + length;

		if (offset > OFFSET_MAX)
			return PASS_LENGTH;
		out->padding_sum = sum_padding(ctx, offset, length, padding);
	}
	return FINE;
}

INLINE int find_from_peer(const struct datagram *in, struct outgoing *out)
{
	out->length = in->udp_length - UDP;
	out->cut = in->behind;
	return find_path(&in->seen, &out->path);
}

/* The path of what arrived. A peer may send what looks like ChannelData. */
INLINE int find(struct xdp_md *ctx, struct datagram *in, struct outgoing *out)
{
	int as_channel_data = STRANGER, found;

	out->stripped = 0;
	out->prefix = 0;
	out->padding_sum = 0;
	if (looks_like_channel_data(in)) {
		as_channel_data = find_from_client(ctx, in, out);
		if (as_channel_data == FINE || as_channel_data == PASS_EXPIRED)
			return as_channel_data;
	}
	found = find_from_peer(in, out);
	return found == PASS_UNKNOWN ? as_channel_data : found;
}

/* What a datagram shows that left by this path, and never came by a wire. */
INLINE void show(struct seen *seen, const struct path *path)
{
	const __u64 *from = (const __u64 *)path->from, *to = (const __u64 *)path->to;

	seen->family = path->family;
	seen->words[0] = neighbours(path_ports(path), HTONL(INSIDE));
	if (path->family == 4) {
		seen->words[1] = neighbours(path->from[0], path->to[0]);
	} else {
		seen->words[1] = from[0];
		seen->words[2] = from[1];
		seen->words[3] = to[0];
		seen->words[4] = to[1];
	}
}

/* Where the datagram goes that was sent to another relayed transport address of ours. */
INLINE int find_second(struct outgoing *out, struct charged *charged, __u64 now)
{
	struct path first = out->path;
	struct seen seen;
	int found;

	/* A client of ours on our own addresses: user space knows what it is. */
	if (first.flags & PATH_TO_CLIENT)
		return PASS_HOP;
	show(&seen, &first);
	found = find_path(&seen, &out->path);
	if (found != FINE)
		return found;
	charged->second = live_account(&out->path, now);
	if (!charged->second)
		return PASS_EXPIRED;
	return out->path.hop == HOP_LOCAL ? PASS_HOP : FINE;
}

/* Everything about what leaves but its next hop. */
INLINE int prepare(const struct datagram *in, struct outgoing *out, struct charged *charged)
{
	__u64 now = coarse_now();
	__u8 hops_taken = 1;
	int found;

	charged->second = NULL;
	charged->first = live_account(&out->path, now);
	if (!charged->first)
		return PASS_EXPIRED;
	if (UNLIKELY(out->path.hop == HOP_LOCAL)) {
		found = find_second(out, charged, now);
		if (found != FINE)
			return found;
		hops_taken = 2;
	}
	if (in->ttl <= hops_taken)
		return PASS_TTL;
	if (in->broken)
		return PASS_CHECKSUM;
	out->ttl = in->ttl - hops_taken;
	out->udp_length = UDP + out->length;
	if (out->path.flags & PATH_TO_CLIENT) {
		out->prefix = HTONL((__u32)NTOHS(out->path.channel) << 16 | out->length);
		out->udp_length += CHANNEL_HEADER;
	}
	return update_checksum(in, out);
}

/* Takes what the datagram costs out of the pockets concerned, or nothing. */
INLINE int charge(const struct charged *charged, __u32 bytes)
{
	if (!take(charged->first, bytes))
		return refuse(charged->first, bytes);
	if (charged->second && !take(charged->second, bytes)) {
		put_back(charged->first, bytes);
		return refuse(charged->second, bytes);
	}
	return FINE;
}

INLINE int relay(struct xdp_md *ctx, struct datagram *in)
{
	struct charged charged;
	struct outgoing out;
	int done, action = TRANSMIT;

	ON_STACK(out);
	done = find(ctx, in, &out);
	if (done != FINE)
		return done;
	done = prepare(in, &out, &charged);
	if (done != FINE)
		return done;
	done = find_hop(ctx, &out.path, &out.hop);
	if (done != FINE)
		return done;
	if (ip_header(out.path.family) + out.udp_length > out.hop.mtu)
		return PASS_MTU;
	if (out.hop.ifindex != ctx->ingress_ifindex) {
		if (bpf_redirect_map(&devices, out.hop.device, XDP_PASS) != XDP_REDIRECT)
			return PASS_HOP;
		action = REDIRECT;
	}
	done = charge(&charged, out.length);
	if (done != FINE)
		return done;
	done = rewrite(ctx, in, &out);
	if (done != FINE) {
		put_back(charged.first, out.length);
		if (charged.second)
			put_back(charged.second, out.length);
		return done;
	}
	count_relayed(charged.first, out.length);
	if (charged.second)
		count_relayed(charged.second, out.length);
	return action;
}

#endif
