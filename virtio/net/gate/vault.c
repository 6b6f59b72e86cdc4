#include "virtio/net/gate/vault.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/*
 * Sets `bytes` of address space aside; what is not taken costs no memory. Vaults are opened and filled before the process
 * confines itself: the gate has neither madvise() nor mlock() afterwards. Returns 0 or -errno.
 */
int vault_open(struct vault *v, size_t bytes)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), size = (bytes + page - 1) / page * page;
	void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return -errno;
	if (madvise(base, size, MADV_DONTDUMP) || madvise(base, size, MADV_WIPEONFORK)) {
		int rc = -errno;
		munmap(base, size);
		return rc;
	}
	*v = (struct vault){base, size, 0};
	return 0;
}

/* The next `bytes`, or NULL where there are not so many left. That they stay out of swap is the system's to allow. */
uint8_t *vault_take(struct vault *v, size_t bytes)
{
	if (bytes > v->size - v->used)
		return NULL;
	uint8_t *at = v->base + v->used;
	mlock(at, bytes);
	v->used += bytes;
	return at;
}

/* Wipes and frees it all. */
void vault_close(struct vault *v)
{
	if (v->base) {
		explicit_bzero(v->base, v->used);
		munmap(v->base, v->size);
	}
	*v = (struct vault){0};
}
