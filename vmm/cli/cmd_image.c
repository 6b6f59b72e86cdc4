/* caplock image: import, ls, rm. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vmm/cli/cli.h"
#include "vmm/image/image.h"
#include "vmm/util/buf.h"
#include "vmm/util/io.h"
#include "vmm/util/json.h"

static int do_import(struct store *s, int argc, char **argv, struct err *e)
{
	struct image image;
	int fd = STDIN_FILENO;
	if (argc == 2) {
		fd = open(argv[1], O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return err_sys(e, -errno, "cannot open %s", argv[1]);
	} else if (isatty(STDIN_FILENO)) {
		return err_set(e, -EINVAL, "no archive: give one as standard input (docker save %s | caplock image import %s) or as a file",
			       argv[0], argv[0]);
	}
	int rc = image_import(s, argv[0], fd, &image, e);
	if (rc == 0) {
		printf("%s %s\n", image.name, image.digest);
		image_free(&image);
	}
	if (fd != STDIN_FILENO)
		close(fd);
	return rc;
}

static void print_text(const struct image *image, unsigned count)
{
	printf("%-40s %-14s %-17s %9s\n", "NAME", "DIGEST", "IMPORTED", "SIZE");
	for (unsigned i = 0; i < count; i++) {
		char when[32];
		time_t created = (time_t)image[i].created;
		struct tm tm;
		strftime(when, sizeof when, "%Y-%m-%d %H:%M", localtime_r(&created, &tm));
		printf("%-40s %-14.12s %-17s %6.1f MB\n", image[i].name, image[i].digest + strlen("sha256:"), when,
		       (double)image[i].bytes / 1e6);
	}
}

static int print_json(const struct image *image, unsigned count)
{
	struct buf b = {0};
	int rc = buf_add(&b, "[", 1);
	for (unsigned i = 0; i < count && rc == 0; i++) {
		rc = buf_addf(&b, "%s{\"name\":", i ? "," : "");
		rc = rc ? rc : json_put_string(&b, image[i].name);
		rc = rc ? rc : buf_addf(&b, ",\"digest\":\"%s\",\"created\":%lld,\"bytes\":%llu}", image[i].digest,
					(long long)image[i].created, (unsigned long long)image[i].bytes);
	}
	rc = rc ? rc : buf_addf(&b, "]\n");
	rc = rc ? rc : io_write_all(STDOUT_FILENO, b.data, b.len);
	buf_free(&b);
	return rc;
}

static int do_list(struct store *s, int argc, char **argv, struct err *e)
{
	(void)argv;
	struct image *image;
	unsigned count;
	int rc = image_list(s, &image, &count, e);
	if (rc)
		return rc;
	if (argc == 0)
		print_text(image, count);
	else if (print_json(image, count))
		rc = err_set(e, -EIO, "cannot write the list");
	for (unsigned i = 0; i < count; i++)
		image_free(&image[i]);
	free(image);
	return rc;
}

static int do_remove(struct store *s, int argc, char **argv, struct err *e)
{
	int failed = 0;
	for (int i = 0; i < argc; i++) {
		struct err why;
		int rc = image_remove(s, argv[i], &why);
		if (rc && failed)
			cli_fail(EXIT_REFUSED, e);
		if (rc)
			*e = why;
		failed = rc ? rc : failed;
	}
	return failed;
}

static int run(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	int (*action)(struct store *, int, char **, struct err *) = NULL;
	argc -= 2;
	argv += 2;
	if (strcmp(what, "import") == 0 && (argc == 1 || argc == 2))
		action = do_import;
	else if ((strcmp(what, "ls") == 0 || strcmp(what, "list") == 0) && (argc <= 0 || (argc == 1 && strcmp(argv[0], "--json") == 0)))
		action = do_list;
	else if (strcmp(what, "rm") == 0 && argc >= 1)
		action = do_remove;
	if (!action)
		return cli_usage(&cmd_image, "give import NAME, ls [--json], or rm NAME...");
	struct store *s;
	struct err e;
	int rc = store_open(&s, &e);
	if (rc == 0) {
		rc = action(s, argc, argv, &e);
		store_close(s);
	}
	return rc ? cli_fail(EXIT_REFUSED, &e) : 0;
}

const struct command cmd_image = {
	.name = "image",
	.synopsis = "caplock image import NAME < ARCHIVE\n"
		    "caplock image import NAME FILE-OR-DIRECTORY\n"
		    "caplock image ls [--json]\n"
		    "caplock image rm NAME...",
	.summary = "Import, list and remove images (docker save, OCI layouts), in $XDG_DATA_HOME/caplock",
	.run = run,
};
