/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* What leaves: the payload stays where it is, all headers in front of it are written anew. */
#ifndef TURNWAY_REWRITE_H
#define TURNWAY_REWRITE_H

#include "path.h"

/* An IPv4 packet made of an IPv6 one may be fragmented up to this length (RFC 7915 section 5.1). */
#define FRAGMENTABLE 1260
#define DONT_FRAGMENT HTONS(0x4000)

struct outgoing {
	struct path path;
	struct hop hop;
	/* Payload, without framing. */
	__u32 length;
	/* The ChannelData header that goes, and the one that comes; 0: none. */
	__be32 stripped;
	__be32 prefix;
	/* What the padding that goes was in the checksum. */
	__u32 padding_sum;
	/* Bytes to cut off behind the payload: padding of ChannelData and of the Ethernet frame. */
	__u32 cut;
	__u16 udp_length;
	__be16 udp_check;
	/* Of what leaves. */
	__u8 ttl;
};

/* Both addresses and both ports of what leaves. */
INLINE __u64 sum_path(const struct path *path)
{
	const __u64 *from = (const __u64 *)path->from, *to = (const __u64 *)path->to;
	/* Of an IPv4 address, what follows is 0. */
	__u64 sum = path_ports(path) + sum_word(from[0]) + sum_word(to[0]);

	if (path->family == 6)
		sum += sum_word(from[1]) + sum_word(to[1]);
	return sum;
}

/* The checksum of the datagram that leaves, from the one that arrived: a wrong one stays wrong.
 * FINE, or PASS_CHECKSUM if that one says nothing. */
INLINE int update_checksum(const struct datagram *in, struct outgoing *out)
{
	const struct path *path = &out->path;
	__u64 before = sum_addresses(&in->seen) + HTONS(in->udp_length);
	__u64 after = sum_path(path) + 2 * HTONS(out->udp_length) + out->prefix;
	__u16 check;

	out->udp_check = 0;
	if (in->udp_check == 0)
		return in->seen.family == 4 && path->family == 4 ? FINE : PASS_CHECKSUM;
	/* The sum of the pseudo-header only: the sender left the rest to a device that it has not
	 * passed. What is still several datagrams in one looks the same. */
	if (in->udp_check == fold(before + HTONS(IPPROTO_UDP)))
		return PASS_CHECKSUM;
	before += HTONS(in->udp_length) + (__u64)seen_ports(&in->seen) + out->stripped +
		  out->padding_sum;
	check = ~fold((__u16)~in->udp_check + after + (__u16)~fold(before));
	/* 0 would say that there is none. */
	out->udp_check = check ? check : 0xffff;
	return FINE;
}

INLINE void write_ipv4(struct iphdr *ip, const struct datagram *in, const struct outgoing *out)
{
	const struct path *path = &out->path;
	__u16 length = IPV4 + out->udp_length;
	__be16 fragment = 0, id = 0;
	__be32 first = HTONL(0x45000000 | (__u32)in->tos << 16 | length);
	__be32 third = HTONL((__u32)out->ttl << 24 | IPPROTO_UDP << 16);

	if (in->seen.family == 4) {
		/* DF as it came. The flows of many senders become one sender's: their identifications
		 * are kept apart by what is different about them. */
		fragment = in->fragment;
		id = in->id ^ path->from_port ^ path->channel;
	} else if (length <= FRAGMENTABLE) {
		id = bpf_get_prandom_u32();
	} else {
		fragment = DONT_FRAGMENT;
	}
	*(__be32 *)ip = first;
	ip->id = id;
	ip->frag_off = fragment;
	ip->ttl = out->ttl;
	ip->protocol = IPPROTO_UDP;
	ip->check = ~fold((__u64)first + third + id + fragment + path->from[0] + path->to[0]);
	ip->saddr = path->from[0];
	ip->daddr = path->to[0];
}

INLINE void write_ipv6(struct ipv6hdr *ip, const struct datagram *in, const struct outgoing *out)
{
	/* Version, traffic class, and a flow label of 0. */
	*(__be32 *)ip = HTONL(0x60000000 | (__u32)in->tos << 20);
	ip->payload_len = HTONS(out->udp_length);
	ip->nexthdr = IPPROTO_UDP;
	ip->hop_limit = out->ttl;
	__builtin_memcpy(&ip->saddr, out->path.from, 16);
	__builtin_memcpy(&ip->daddr, out->path.to, 16);
}

/* Writes the Ethernet header; gives where the IP header begins. */
INLINE void *write_ethernet(void *data, const struct outgoing *out)
{
	__be16 *type = data + 12;

	__builtin_memcpy(data, out->hop.to, 12);
	if (out->hop.vlan) {
		*type++ = HTONS(ETH_P_8021Q);
		*type++ = HTONS(out->hop.vlan);
	}
	*type++ = out->path.family == 4 ? HTONS(ETH_P_IP) : HTONS(ETH_P_IPV6);
	return type;
}

/* Makes the datagram that leaves of the one that arrived. FINE, or PASS_HEADROOM: then nothing has
 * changed. */
INLINE int rewrite(struct xdp_md *ctx, const struct datagram *in, const struct outgoing *out)
{
	__u32 front = ethernet_header(out->hop.vlan) + ip_header(out->path.family) + UDP +
		      (out->prefix ? CHANNEL_HEADER : 0);
	int removed = (int)(in->front + (out->stripped ? CHANNEL_HEADER : 0)) - (int)front;
	void *data, *ip, *end;
	struct udphdr *udp;

	if (removed && bpf_xdp_adjust_head(ctx, removed))
		return PASS_HEADROOM;
	/* Were it to fail, these bytes would lie behind the IP packet, where nobody reads them. */
	if (out->cut)
		bpf_xdp_adjust_tail(ctx, -(int)out->cut);
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	/* Never so; the verifier wants to see it. */
	if (data + ETHERNET + TAG > end)
		return PASS_HEADROOM;
	ip = write_ethernet(data, out);
	if (out->path.family == 4) {
		if (ip + IPV4 + UDP > end)
			return PASS_HEADROOM;
		write_ipv4(ip, in, out);
		udp = ip + IPV4;
	} else {
		if (ip + IPV6 + UDP > end)
			return PASS_HEADROOM;
		write_ipv6(ip, in, out);
		udp = ip + IPV6;
	}
	*(__u32 *)udp = path_ports(&out->path);
	udp->len = HTONS(out->udp_length);
	udp->check = out->udp_check;
	if (out->prefix) {
		__be32 *header = (void *)(udp + 1);

		if ((void *)(header + 1) > end)
			return PASS_HEADROOM;
		*header = out->prefix;
	}
	return FINE;
}

#endif
