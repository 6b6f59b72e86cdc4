/*
 * The base image, as a disk.
 *
 * Purpose: the image is part of the program (assets.S), but is read from the program's file: each block that a sandbox
 * reads would otherwise count as the memory of its processes.
 */
#include "vmm/assets.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vmm/util/err.h"
#include "vmm/util/io.h"

struct place {
	char path[4096];
	uint64_t offset_bytes;
};

/* For dl_iterate_phdr(): whether the base image lies in this object, and where in its file. */
static int find(struct dl_phdr_info *object, size_t len, void *out)
{
	(void)len;
	struct place *place = out;
	uintptr_t address = (uintptr_t)asset_base_image;
	for (unsigned i = 0; i < object->dlpi_phnum; i++) {
		const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
		uintptr_t from = object->dlpi_addr + segment->p_vaddr;
		if (segment->p_type != PT_LOAD || address < from || address - from >= segment->p_filesz)
			continue;
		const char *name = object->dlpi_name && object->dlpi_name[0] ? object->dlpi_name : "/proc/self/exe";
		snprintf(place->path, sizeof place->path, "%s", name);
		place->offset_bytes = segment->p_offset + (address - from);
		return 1;
	}
	return 0;
}

/*
 * Opens the file that holds the base image, an ext4. The caller owns *fd; the image begins at *offset_bytes and is
 * *len_bytes long. Returns 0 or -errno.
 */
int assets_open_base_image(int *fd, uint64_t *offset_bytes, uint64_t *len_bytes, struct err *e)
{
	enum { SUPERBLOCK = 1024, COMPARED = 256 };
	uint8_t there[COMPARED];
	struct place place = {.path = "/proc/self/exe"};
	if (!dl_iterate_phdr(find, &place))
		return err_set(e, -ENOENT, "the base image is not in the program's file; use --image");
	*fd = open(place.path, O_RDONLY | O_CLOEXEC);
	if (*fd < 0)
		return err_sys(e, -errno, "cannot read the base image from the program's file %s", place.path);
	if (pread(*fd, there, COMPARED, (off_t)(place.offset_bytes + SUPERBLOCK)) != COMPARED ||
	    memcmp(there, asset_base_image + SUPERBLOCK, COMPARED) != 0) {
		io_close(fd);
		return err_set(e, -EIO, "the program's file %s is not the program that runs; start it again", place.path);
	}
	*offset_bytes = place.offset_bytes;
	*len_bytes = (uint64_t)(asset_base_image_end - asset_base_image);
	return 0;
}
