#include "virtio/net/dns.h"

#include <errno.h>
#include <string.h>

enum {
	FLAG_RESPONSE = 0x80, /* of byte 2 */
	FLAG_RECURSION_DESIRED = 0x01,
	FLAG_RECURSION_AVAILABLE = 0x80, /* of byte 3 */
	OPCODE_MASK = 0x78,
	TYPE_OPT = 41,
	LABEL_MAX_BYTES = 63,
	QNAME_MAX_BYTES = 255,
	UDP_PAYLOAD_BYTES = 1232, /* what we say that we take; RFC 6891, 6.2.5 */
	NAME_POINTER = 0xc000 | DNS_HEADER_BYTES, /* to the question's name */
};

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

/* The length of the name at the start of the question, without pointers; 0 where it is none. Its text goes to `text`. */
static size_t parse_name(const uint8_t *p, size_t len_bytes, char text[QNAME_MAX_BYTES])
{
	size_t at = 0;
	while (at < len_bytes && at < QNAME_MAX_BYTES) {
		size_t label = p[at];
		if (label == 0) {
			text[at ? at - 1 : 0] = 0;
			return at + 1;
		}
		if (label > LABEL_MAX_BYTES || label >= len_bytes - at || at + 1 + label >= QNAME_MAX_BYTES)
			return 0;
		for (size_t i = 0; i < label; i++) /* a dot or NUL inside a label would make it another name */
			text[at + i] = p[at + 1 + i] == '.' || p[at + 1 + i] == 0 ? '?' : (char)p[at + 1 + i];
		text[at + label] = '.';
		at += 1 + label;
	}
	return 0;
}

/*
 * Reads a query with one question. Returns 0; -EBADMSG where it is none that can be answered; or an error that the client
 * is to be told with dns_build(), as -DNS_FORMERR or -DNS_NOTIMP: then *q has the id, and no question.
 */
int dns_parse(const uint8_t *message, size_t len_bytes, struct dns_query *q)
{
	char text[QNAME_MAX_BYTES];
	size_t wrong_at;
	*q = (struct dns_query){0};
	if (len_bytes < DNS_HEADER_BYTES || message[2] & FLAG_RESPONSE)
		return -EBADMSG;
	q->id = get16(message);
	q->recursion_desired = message[2] & FLAG_RECURSION_DESIRED;
	if (message[2] & OPCODE_MASK)
		return -DNS_NOTIMP;
	const uint8_t *question = message + DNS_HEADER_BYTES;
	size_t left = len_bytes - DNS_HEADER_BYTES;
	size_t name_bytes = get16(message + 4) == 1 ? parse_name(question, left, text) : 0;
	if (name_bytes == 0 || left - name_bytes < 4)
		return -DNS_FORMERR;
	q->type = get16(question + name_bytes);
	q->class = get16(question + name_bytes + 2);
	q->question_bytes = name_bytes + 4;
	memcpy(q->question, question, q->question_bytes);
	if (name_canonical(text, strlen(text), q->name, &wrong_at))
		q->name[0] = 0;
	/* An OPT record is the root's name, so it is recognized without parsing what is before it, of which there is nothing. */
	const uint8_t *opt = question + q->question_bytes;
	left -= q->question_bytes;
	q->edns = get16(message + 10) > 0 && left >= 11 && opt[0] == 0 && get16(opt + 1) == TYPE_OPT;
	return 0;
}

struct writer {
	uint8_t *at;
};

static void put16(struct writer *w, unsigned value)
{
	*w->at++ = (uint8_t)(value >> 8);
	*w->at++ = (uint8_t)value;
}

static void put_record(struct writer *w, uint16_t type, uint32_t ttl_s, const void *data, size_t len_bytes)
{
	put16(w, NAME_POINTER);
	put16(w, type);
	put16(w, DNS_CLASS_IN);
	put16(w, ttl_s >> 16);
	put16(w, ttl_s & 0xffff);
	put16(w, (unsigned)len_bytes);
	memcpy(w->at, data, len_bytes);
	w->at += len_bytes;
}

/* A canonical name as labels. Returns its length. */
static size_t encode_name(const char *name, uint8_t out[NAME_BYTES + 2])
{
	size_t at = 0;
	while (*name) {
		size_t label = strcspn(name, ".");
		out[at++] = (uint8_t)label;
		memcpy(out + at, name, label);
		at += label;
		name += label + (name[label] == '.');
	}
	out[at++] = 0;
	return at;
}

/* Writes the answer to `q`. Returns its length; it fits into 512 bytes, which every client takes over UDP. */
size_t dns_build(const struct dns_query *q, const struct dns_answer *a, uint8_t out[DNS_ANSWER_MAX_BYTES])
{
	struct writer w = {out};
	unsigned answers = (a->v4 != NULL) + (a->v6 != NULL) + (a->name != NULL);
	put16(&w, q->id);
	*w.at++ = FLAG_RESPONSE | (q->recursion_desired ? FLAG_RECURSION_DESIRED : 0);
	*w.at++ = (uint8_t)(FLAG_RECURSION_AVAILABLE | a->rcode);
	put16(&w, q->question_bytes > 0);
	put16(&w, answers);
	put16(&w, 0);
	put16(&w, q->edns);
	memcpy(w.at, q->question, q->question_bytes);
	w.at += q->question_bytes;
	if (a->v4)
		put_record(&w, DNS_TYPE_A, a->ttl_s, a->v4->byte + 12, 4);
	if (a->v6)
		put_record(&w, DNS_TYPE_AAAA, a->ttl_s, a->v6->byte, 16);
	if (a->name) {
		uint8_t name[NAME_BYTES + 2];
		put_record(&w, DNS_TYPE_PTR, a->ttl_s, name, encode_name(a->name, name));
	}
	if (q->edns) {
		*w.at++ = 0;
		put16(&w, TYPE_OPT);
		put16(&w, UDP_PAYLOAD_BYTES);
		memset(w.at, 0, 6);
		w.at += 6;
	}
	return (size_t)(w.at - out);
}

static int hex(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The address that a (canonical) name under in-addr.arpa or ip6.arpa is about. Returns false where it is none. */
bool dns_reverse(const char *name, struct ip_addr *out)
{
	uint32_t v4 = 0;
	const char *p = name;
	int i;
	for (i = 0; i < 4; i++) {
		size_t digits = strspn(p, "0123456789");
		unsigned value = 0;
		for (size_t d = 0; d < digits && d < 4; d++)
			value = value * 10 + (unsigned)(p[d] - '0');
		if (digits == 0 || digits > 3 || value > 255 || p[digits] != '.')
			break;
		v4 |= value << (8 * i);
		p += digits + 1;
	}
	if (i == 4 && strcmp(p, "in-addr.arpa") == 0) {
		*out = addr_v4(v4);
		return true;
	}
	if (strlen(name) != 32 * 2 + 8 || strcmp(name + 64, "ip6.arpa") != 0)
		return false;
	for (i = 0; i < 32; i++) {
		int value = hex(name[2 * i]);
		if (value < 0 || name[2 * i + 1] != '.')
			return false;
		uint8_t *byte = &out->byte[15 - i / 2];
		*byte = (uint8_t)(i % 2 ? *byte | value << 4 : value);
	}
	return true;
}
