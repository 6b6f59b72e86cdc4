#include "vmm/util/io.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/util/buf.h"

/* Writes all of `data`, waiting where `fd` is non-blocking. Returns 0 or -errno. */
int io_write_all(int fd, const void *data, size_t len_bytes)
{
	const char *p = data;
	while (len_bytes) {
		ssize_t n = write(fd, p, len_bytes);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, -1);
			continue;
		}
		if (n < 0)
			return -errno;
		p += n;
		len_bytes -= (size_t)n;
	}
	return 0;
}

/* Reads exactly `len_bytes` at `offset`. Returns 0, -ENODATA where the file ends before, or -errno. */
int io_pread_all(int fd, void *data, size_t len_bytes, off_t offset)
{
	char *p = data;
	while (len_bytes) {
		ssize_t n = pread(fd, p, len_bytes, offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -ENODATA;
		p += n;
		offset += n;
		len_bytes -= (size_t)n;
	}
	return 0;
}

/*
 * Appends the whole file `path` (relative to `dirfd`, or AT_FDCWD) to `out`, followed by a NUL that is not counted in
 * out->len. Returns 0, -EFBIG where it is longer than `max_bytes`, or -errno.
 */
int io_read_file(int dirfd, const char *path, size_t max_bytes, struct buf *out)
{
	int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int rc = 0;
	size_t start = out->len, chunk = 16384;
	struct stat st;
	if (fstat(fd, &st) == 0 && st.st_size > 0 && (uint64_t)st.st_size <= max_bytes)
		chunk = (size_t)st.st_size; /* all of it at once, as a rule */
	for (;;) {
		rc = buf_reserve(out, chunk + 1);
		if (rc)
			break;
		ssize_t n = read(fd, out->data + out->len, chunk);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			rc = -errno;
			break;
		}
		if (n == 0)
			break;
		out->len += (size_t)n;
		if (out->len - start > max_bytes) {
			rc = -EFBIG;
			break;
		}
	}
	if (rc == 0)
		out->data[out->len] = 0;
	close(fd);
	return rc;
}

/* Closes *fd where it is open and marks it closed (-1). */
/* Makes a file in memory, read from its beginning: *fd, the caller's. Returns 0 or -errno. */
int io_memory_file(const void *data, size_t len_bytes, int *fd)
{
	*fd = memfd_create("caplock", MFD_CLOEXEC);
	int rc = *fd < 0 ? -errno : io_write_all(*fd, data, len_bytes);
	if (rc == 0 && lseek(*fd, 0, SEEK_SET) < 0)
		rc = -errno;
	if (rc)
		io_close(fd);
	return rc;
}

void io_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}
