#include "virtio/net/names.h"

#include <stdlib.h>
#include <string.h>

/* Inside 198.18.0.0/15, which RFC 2544 keeps for networks that touch no other, and a random prefix of RFC 4193. */
static const struct ip_net range_v4 = {{{[10] = 0xff, 0xff, 198, 18, 0, 0}}, 96 + 16};
static const struct ip_net range_v6 = {{{0xfd, 0x0c, 0xa9, 0x10, 0xc1, 0x0c, 0, 1}}, 96};

enum { FIRST_OFFSET = 256 }; /* so that no address ends in .0.0 */

static uint32_t hash(const char *name)
{
	uint32_t h = 2166136261u; /* FNV-1a */
	for (; *name; name++)
		h = (h ^ (uint8_t)*name) * 16777619u;
	return h % NAMES_MAX;
}

static void unlink_entry(struct names *n, struct name_entry *e)
{
	struct name_entry **at = &n->bucket[hash(e->name)];
	while (*at != e)
		at = &(*at)->next;
	*at = e->next;
}

/* A free entry: a new one, or, where there are as many as may be, the oldest that nothing goes to any more. */
static struct name_entry *take_entry(struct names *n, uint64_t now_ms)
{
	if (n->count < NAMES_MAX) {
		struct name_entry *e = calloc(1, sizeof *e);
		if (e) {
			e->index = n->count;
			n->entry[n->count++] = e;
		}
		return e;
	}
	for (uint32_t tried = 0; tried < NAMES_MAX; tried++) {
		struct name_entry *e = n->entry[n->oldest];
		n->oldest = (n->oldest + 1) % NAMES_MAX;
		if (e->flows == 0 && now_ms - e->told_ms >= NAMES_TTL_S * 1000u) {
			unlink_entry(n, e);
			return e;
		}
	}
	return NULL;
}

/*
 * The entry of a (canonical) name, whose address the guest is told now; it is made where there is none yet. NULL: no memory,
 * or all are in use.
 */
struct name_entry *names_add(struct names *n, const char *name, uint64_t now_ms)
{
	if (!n->bucket)
		n->bucket = calloc(NAMES_MAX, sizeof(struct name_entry *));
	if (!n->entry)
		n->entry = calloc(NAMES_MAX, sizeof(struct name_entry *));
	if (!n->bucket || !n->entry)
		return NULL;
	struct name_entry **at = &n->bucket[hash(name)];
	for (struct name_entry *e = *at; e; e = e->next)
		if (strcmp(e->name, name) == 0) {
			e->told_ms = now_ms;
			return e;
		}
	struct name_entry *e = take_entry(n, now_ms);
	if (!e)
		return NULL;
	strcpy(e->name, name);
	e->told_ms = now_ms;
	at = &n->bucket[hash(name)];
	e->next = *at;
	*at = e;
	return e;
}

/* The entry whose address this is, or NULL. */
struct name_entry *names_find(const struct names *n, const struct ip_addr *addr)
{
	if (!names_has_range(addr))
		return NULL;
	uint32_t offset = addr_is_v4(addr) ? addr_to_v4(addr) & 0xffff : addr_to_v4(addr);
	return offset >= FIRST_OFFSET && offset - FIRST_OFFSET < n->count ? n->entry[offset - FIRST_OFFSET] : NULL;
}

struct ip_addr names_v4(const struct name_entry *e)
{
	return addr_v4(addr_to_v4(&range_v4.addr) + FIRST_OFFSET + e->index);
}

struct ip_addr names_v6(const struct name_entry *e)
{
	struct ip_addr a = range_v6.addr;
	uint32_t offset = FIRST_OFFSET + e->index;
	for (int i = 0; i < 4; i++)
		a.byte[15 - i] = (uint8_t)(offset >> (8 * i));
	return a;
}

/* Whether an address is one that names get, though perhaps none has it. */
bool names_has_range(const struct ip_addr *addr)
{
	return addr_in(addr, &range_v4) || addr_in(addr, &range_v6);
}

void names_free(struct names *n)
{
	for (uint32_t i = 0; i < n->count; i++)
		free(n->entry[i]);
	free(n->entry);
	free(n->bucket);
	*n = (struct names){0};
}
