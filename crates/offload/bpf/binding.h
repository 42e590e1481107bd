/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* STUN Binding requests without attributes, answered where they arrive, as user space answers them:
 * XOR-MAPPED-ADDRESS and nothing else (RFC 8489 sections 6.3.1.1 and 14.2). */
#ifndef TURNWAY_BINDING_H
#define TURNWAY_BINDING_H

#include "maps.h"
#include "packet.h"

#define COOKIE HTONL(0x2112a442)
/* A STUN header: type, length, magic cookie, transaction. */
#define STUN_HEADER 20
/* The type and length of a Binding request without attributes. */
#define BARE_REQUEST HTONL(0x00010000)
#define SUCCESS HTONS(0x0101)
#define XOR_MAPPED_ADDRESS HTONS(0x0020)
/* An attribute's type and length, its family, the port. */
#define MAPPED_HEADER 8
#define ANSWER_TTL 64

struct message {
	__be32 head;
	__be32 cookie;
	__be32 transaction[3];
};

/* XOR-MAPPED-ADDRESS in 32-bit words. */
struct mapped {
	__be16 type;
	__be16 length;
	__be16 family;
	__be16 port;
	__be32 address[4];
};

/* A STUN message with where it came from and went to. */
struct request {
	__be32 from[4];
	__be32 to[4];
	__be16 from_port;
	__be16 to_port;
	__u8 family;
	struct message message;
};

INLINE void read_addresses(struct request *request, const struct seen *seen)
{
	request->family = seen->family;
	if (seen->family == 4) {
		request->from[0] = seen->v4.from;
		request->to[0] = seen->v4.to;
		request->from_port = seen->v4.from_port;
		request->to_port = seen->v4.to_port;
	} else {
		__builtin_memcpy(request->from, seen->v6.from, 16);
		__builtin_memcpy(request->to, seen->v6.to, 16);
		request->from_port = seen->v6.from_port;
		request->to_port = seen->v6.to_port;
	}
}

/* Of an address in its four words. Those of an IPv4 address behind the first are not looked at. */
INLINE __u64 sum_address(const __be32 *address, __u8 family)
{
	__u64 sum = address[0];

	if (family == 6)
		sum += (__u64)address[1] + address[2] + address[3];
	return sum;
}

/* Whether `in` is a STUN message; if so, reads it. */
INLINE bool read_stun(struct xdp_md *ctx, const struct datagram *in, struct request *request)
{
	const struct message *payload = (const void *)(long)ctx->data + in->front;

	if (*(const __u8 *)&in->first & 0xc0 || in->udp_length < UDP + STUN_HEADER ||
	    (const void *)(payload + 1) > (const void *)(long)ctx->data_end)
		return false;
	if (payload->cookie != COOKIE)
		return false;
	request->message = *payload;
	read_addresses(request, &in->seen);
	return true;
}

INLINE bool is_listener(const struct request *request)
{
	struct listener key = { .port = request->to_port, .family = request->family };

	key.address[0] = request->to[0];
	if (request->family == 6) {
		key.address[1] = request->to[1];
		key.address[2] = request->to[2];
		key.address[3] = request->to[3];
	}
	return bpf_map_lookup_elem(&listeners, &key) != NULL;
}

/* An address to which nothing is sent: nobody, oneself, a group; also of Ethernet. */
INLINE bool is_nobody(struct xdp_md *ctx, const struct request *request)
{
	const struct ethhdr *ethernet = (const void *)(long)ctx->data;
	const __u8 *from = (const __u8 *)request->from;

	if ((const void *)(ethernet + 1) > (const void *)(long)ctx->data_end ||
	    ethernet->h_source[0] & 1)
		return true;
	if (request->from_port == 0)
		return true;
	if (request->family == 4)
		return from[0] == 0 || from[0] == 127 || from[0] >= 224;
	return from[0] == 0xff || !(request->from[0] | request->from[1] | request->from[2]);
}

INLINE __u64 sum_message(const struct message *message)
{
	return (__u64)message->head + message->cookie + message->transaction[0] +
	       message->transaction[1] + message->transaction[2];
}

INLINE __u64 sum_pseudo(const struct request *request, __u16 udp_length)
{
	return sum_address(request->from, request->family) + sum_address(request->to, request->family) +
	       request->from_port + request->to_port + HTONS(IPPROTO_UDP) + 2 * HTONS(udp_length);
}

/* Whether a request is whole: what user space receives has been checked by the kernel. */
INLINE bool is_intact(const struct datagram *in, const struct request *request)
{
	if (in->broken)
		return false;
	if (in->udp_check == 0)
		return request->family == 4;
	return fold(fold(sum_pseudo(request, in->udp_length)) + sum_message(&request->message) +
		    in->udp_check) == 0xffff;
}

/* Whether the source may have one more answer. Every answer costs one interval of the time that
 * the source has earned; it may be `ahead` of it. */
INLINE bool may_answer(const struct settings *settings, const struct request *request)
{
	__u64 interval = settings->binding_interval_ns, now, earned, next;
	struct source source = { .family = request->family };
	struct allowance fresh, *allowance;

	if (interval == 0)
		return true;
	source.prefix[0] = request->from[0];
	source.prefix[1] = request->family == 6 ? request->from[1] : 0;
	now = bpf_ktime_get_coarse_ns();
	allowance = bpf_map_lookup_elem(&sources, &source);
	if (!allowance) {
		fresh.earned_ns = now + interval;
		bpf_map_update_elem(&sources, &source, &fresh, BPF_ANY);
		return true;
	}
	earned = READ_ONCE(allowance->earned_ns);
	next = (earned > now ? earned : now) + interval;
	if (next > now + settings->binding_ahead_ns)
		return false;
	/* Another core was faster: so fast asks only who asks too much. */
	return __sync_val_compare_and_swap(&allowance->earned_ns, earned, next) == earned;
}

INLINE void make_mapped(struct mapped *mapped, const struct request *request)
{
	const __be32 *transaction = request->message.transaction;

	mapped->type = XOR_MAPPED_ADDRESS;
	mapped->length = request->family == 4 ? HTONS(8) : HTONS(20);
	mapped->family = request->family == 4 ? HTONS(1) : HTONS(2);
	mapped->port = request->from_port ^ HTONS(0x2112);
	mapped->address[0] = request->from[0] ^ COOKIE;
	if (request->family == 6) {
		mapped->address[1] = request->from[1] ^ transaction[0];
		mapped->address[2] = request->from[2] ^ transaction[1];
		mapped->address[3] = request->from[3] ^ transaction[2];
	}
}

INLINE __be16 answer_check(const struct request *request, const struct mapped *mapped,
			   __u16 udp_length)
{
	__u64 sum = sum_pseudo(request, udp_length) + mapped->type + mapped->length + mapped->family +
		    mapped->port + sum_address(mapped->address, request->family);
	__u16 check = ~fold(fold(sum) + sum_message(&request->message));

	return check ? check : 0xffff;
}

INLINE void answer_ipv4(struct iphdr *ip, const struct request *request, __u16 length)
{
	ip->tos = 0;
	ip->tot_len = HTONS(length);
	/* Too short to be fragmented, so it needs no identification. */
	ip->id = 0;
	ip->frag_off = HTONS(0x4000);
	ip->ttl = ANSWER_TTL;
	ip->check = 0;
	ip->saddr = request->to[0];
	ip->daddr = request->from[0];
	ip->check = ~sum_ipv4(ip);
}

INLINE void answer_ipv6(struct ipv6hdr *ip, const struct request *request, __u16 udp_length)
{
	*(__be32 *)ip = HTONL(0x60000000);
	ip->payload_len = HTONS(udp_length);
	ip->hop_limit = ANSWER_TTL;
	__builtin_memcpy(&ip->saddr, request->to, 16);
	__builtin_memcpy(&ip->daddr, request->from, 16);
}

INLINE void swap_macs(struct ethhdr *ethernet)
{
	__u8 mac[6];

	__builtin_memcpy(mac, ethernet->h_dest, 6);
	__builtin_memcpy(ethernet->h_dest, ethernet->h_source, 6);
	__builtin_memcpy(ethernet->h_source, mac, 6);
}

/* Turns the request into its answer; false if there is no room, and then nothing has changed. */
INLINE bool answer(struct xdp_md *ctx, const struct datagram *in, struct request *request)
{
	__u32 mapped_length = MAPPED_HEADER + (request->family == 4 ? 4 : 16);
	__u16 udp_length = UDP + STUN_HEADER + mapped_length;
	struct mapped mapped;
	struct udphdr *udp;
	void *data, *end;

	if (bpf_xdp_adjust_tail(ctx, (int)mapped_length - (int)in->behind))
		return false;
	request->message.head = (__be32)SUCCESS | HTONL(mapped_length);
	make_mapped(&mapped, request);
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	/* The two conditions of this kind never hold; the verifier wants to see them. */
	if (data + in->front > end || in->front < ETHERNET + IPV4 + UDP)
		return false;
	swap_macs(data);
	udp = data + in->front - UDP;
	if ((void *)(udp + 1) + STUN_HEADER + mapped_length > end)
		return false;
	if (request->family == 4)
		answer_ipv4((void *)udp - IPV4, request, IPV4 + udp_length);
	else
		answer_ipv6((void *)udp - IPV6, request, udp_length);
	udp->source = request->to_port;
	udp->dest = request->from_port;
	udp->len = HTONS(udp_length);
	udp->check = answer_check(request, &mapped, udp_length);
	__builtin_memcpy(udp + 1, &request->message, STUN_HEADER);
	if (request->family == 4)
		__builtin_memcpy((void *)(udp + 1) + STUN_HEADER, &mapped, MAPPED_HEADER + 4);
	else
		__builtin_memcpy((void *)(udp + 1) + STUN_HEADER, &mapped, MAPPED_HEADER + 16);
	return true;
}

/* STRANGER: no STUN message to a listener, so what else may it be? */
INLINE int binding(struct xdp_md *ctx, const struct datagram *in)
{
	const struct settings *setting;
	struct request request;
	__u32 zero = 0;

	if (!read_stun(ctx, in, &request) || !is_listener(&request))
		return STRANGER;
	setting = bpf_map_lookup_elem(&settings, &zero);
	if (request.message.head != BARE_REQUEST || in->udp_length != UDP + STUN_HEADER ||
	    is_nobody(ctx, &request) || !setting || !(setting->flags & SETTINGS_BINDING))
		return PASS_REQUEST;
	if (!is_intact(in, &request))
		return PASS_CHECKSUM;
	if (!may_answer(setting, &request))
		return BINDING_LIMITED;
	return answer(ctx, in, &request) ? BINDING_ANSWERED : PASS_REQUEST;
}

#endif
