/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* A bare hairpin, to measure the program against: parse IPv4, one lookup in a table of the same
 * size, strip four bytes, rewrite addresses and checksums, back out where it came in. No expiry, no
 * counters, no limits, and no check that anything fits together. Not part of the relay. */
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include "checksum.h"
#include "maps.h"

SEC("xdp")
int hairpin(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = data;
	struct iphdr *ip = data + 14;
	struct udphdr *udp = (void *)(ip + 1);
	__be32 *framing = (void *)(udp + 1);
	__u16 length, check, tos, id, fragment, ttl, before_length, after_length;
	struct path *path;
	__u8 macs[12];
	__u64 sum;

	if ((void *)(framing + 1) > end || ethernet->h_proto != HTONS(ETH_P_IP) ||
	    ip->protocol != IPPROTO_UDP)
		return XDP_PASS;

	struct key4 key = {
		.from = ip->saddr,
		.to = ip->daddr,
		.from_port = udp->source,
		.to_port = udp->dest,
		.channel = *(__be16 *)framing,
	};

	path = bpf_map_lookup_elem(&paths4, &key);
	if (!path)
		return XDP_PASS;
	before_length = udp->len;
	length = NTOHS(udp->len) - 4;
	after_length = HTONS(length);
	sum = (__u16)~udp->check + (__u64)path->from[0] + path->to[0] + path->from_port +
	      path->to_port + 2 * after_length;
	sum += 0x8ffffffffULL - ip->saddr - ip->daddr - key.from_port - key.to_port - *framing -
	       2 * before_length;
	sum = (sum & 0xffffffff) + (sum >> 32);
	check = ~fold(sum);
	tos = ip->tos;
	id = ip->id;
	fragment = ip->frag_off;
	ttl = ip->ttl;
	__builtin_memcpy(macs, ethernet->h_source, 6);
	__builtin_memcpy(macs + 6, ethernet->h_dest, 6);
	if (bpf_xdp_adjust_head(ctx, 4))
		return XDP_DROP;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	ip = data + 14;
	udp = (void *)(ip + 1);
	if ((void *)(udp + 1) > end)
		return XDP_DROP;
	ethernet = data;
	__builtin_memcpy(ethernet, macs, 12);
	ethernet->h_proto = HTONS(ETH_P_IP);
	*(__u8 *)ip = 0x45;
	ip->tos = tos;
	ip->tot_len = HTONS(length + 20);
	ip->id = id;
	ip->frag_off = fragment;
	ip->ttl = ttl - 1;
	ip->protocol = IPPROTO_UDP;
	ip->check = 0;
	ip->saddr = path->from[0];
	ip->daddr = path->to[0];
	ip->check = ~sum_ipv4(ip);
	udp->source = path->from_port;
	udp->dest = path->to_port;
	udp->len = after_length;
	udp->check = check;
	return XDP_TX;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
