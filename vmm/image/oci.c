/*
 * OCI image layouts (image-layout.md, image-index.md, manifest.md, config.md) and what `docker save` wrote before them.
 *
 * Theory of operation
 * -------------------
 * Purpose: from a container's files to one image for linux/amd64: its configuration, and its layers applied to a tree.
 *
 * Trust boundary: all of it is the archive's. Every blob is checked against the digest and the size that refer to it
 * before it is used (a layer: before its result is), every layer against its diff_id, and the numbers of things are
 * bounded.
 */
#include "vmm/image/oci.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/image/container.h"
#include "vmm/image/digest.h"
#include "vmm/image/layer.h"
#include "vmm/image/record.h"
#include "vmm/util/buf.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"
#include "vmm/util/json.h"

enum {
	JSON_MAX_BYTES = 4 << 20,
	INDEX_DEPTH_MAX = 4,
	LAYERS_MAX = 128,
};

static const struct json_limits limits = {.max_bytes = JSON_MAX_BYTES, .max_values = 200000, .max_depth = 32};

struct layer {
	const struct container_file *blob;
	char digest[DIGEST_TEXT_BYTES]; /* of the blob; "" where nothing says it */
};

struct oci {
	const struct container *c;
	struct json *config;
	struct layer layer[LAYERS_MAX];
	unsigned layers;
	struct err *e;
};

/* ---- Blobs ---- */

/* Parses file `f`, called `name` in messages. The caller frees *doc. */
static int parse(struct oci *o, const struct container_file *f, const char *name, struct json **doc)
{
	struct buf text = {0};
	struct err why;
	if (f->len_bytes > JSON_MAX_BYTES)
		return err_set(o->e, -EFBIG, "%s is larger than %d MB", name, JSON_MAX_BYTES >> 20);
	int rc = buf_reserve(&text, (size_t)f->len_bytes + 1);
	rc = rc ? rc : io_pread_all(f->fd, text.data, (size_t)f->len_bytes, (off_t)f->offset);
	if (rc) {
		err_sys(o->e, rc, "cannot read %s", name);
	} else {
		rc = json_parse((const char *)text.data, (size_t)f->len_bytes, &limits, doc, &why);
		if (rc)
			err_set(o->e, rc, "%s: %s", name, why.text);
	}
	buf_free(&text);
	return rc;
}

static int check_digest(struct oci *o, const struct container_file *f, const char *digest)
{
	char real[DIGEST_TEXT_BYTES];
	int rc = digest_file(f->fd, f->offset, f->len_bytes, real);
	if (rc)
		return err_sys(o->e, rc, "cannot read blob %s", digest);
	return strcmp(real, digest) == 0
		   ? 0
		   : err_set(o->e, -EINVAL, "blob %s has the digest %s; the archive is damaged", digest, real);
}

/* The blob that a descriptor (descriptor.md) refers to, and its digest. Checks the size, not yet the digest. */
static int find_blob(struct oci *o, struct json_value descriptor, const struct container_file **f,
		     char digest[DIGEST_TEXT_BYTES])
{
	char *text = NULL, name[32 + DIGEST_TEXT_BYTES];
	uint64_t size;
	struct err why;
	int rc = json_string(json_get(descriptor, "digest"), &text, &why);
	rc = rc ? rc : json_uint64(json_get(descriptor, "size"), &size, &why);
	if (rc) {
		free(text);
		return err_set(o->e, rc, "a descriptor is not valid: %s", why.text);
	}
	if (!digest_is_valid(text)) {
		rc = err_set(o->e, -EINVAL, "digest '%.80s' is not sha256 in hexadecimal", text);
		free(text);
		return rc;
	}
	snprintf(digest, DIGEST_TEXT_BYTES, "%s", text);
	free(text);
	snprintf(name, sizeof name, "blobs/sha256/%s", digest + 7);
	*f = container_find(o->c, name);
	if (!*f)
		return err_set(o->e, -EINVAL, "blob %s is missing; the archive is incomplete", digest);
	if ((*f)->len_bytes != size)
		return err_set(o->e, -EINVAL, "blob %s has %llu bytes instead of %llu; the archive is damaged", digest,
			       (unsigned long long)(*f)->len_bytes, (unsigned long long)size);
	return 0;
}

/* The JSON document that a descriptor refers to, its digest checked. The caller frees *doc. */
static int parse_blob(struct oci *o, struct json_value descriptor, struct json **doc)
{
	const struct container_file *f;
	char digest[DIGEST_TEXT_BYTES];
	int rc = find_blob(o, descriptor, &f, digest);
	rc = rc ? rc : check_digest(o, f, digest);
	return rc ? rc : parse(o, f, digest, doc);
}

static int add_layer(struct oci *o, const struct container_file *blob, const char *digest)
{
	if (o->layers == LAYERS_MAX)
		return err_set(o->e, -E2BIG, "the image has more than %d layers", LAYERS_MAX);
	struct layer *l = &o->layer[o->layers++];
	l->blob = blob;
	snprintf(l->digest, sizeof l->digest, "%s", digest);
	return 0;
}

/* ---- OCI layout ---- */

static int read_manifest(struct oci *o, struct json_value manifest)
{
	struct json_value layers = json_get(manifest, "layers");
	struct err why;
	int rc = json_expect(layers, JSON_ARRAY, &why);
	if (rc)
		return err_set(o->e, rc, "the image's manifest: %s", why.text);
	rc = parse_blob(o, json_get(manifest, "config"), &o->config);
	struct json_iter it = JSON_ITER(layers);
	while (rc == 0 && json_next(&it)) {
		const struct container_file *f;
		char digest[DIGEST_TEXT_BYTES];
		rc = find_blob(o, it.value, &f, digest);
		rc = rc ? rc : add_layer(o, f, digest);
	}
	return rc;
}

/* Whether an index's entry may be our image: linux/amd64, or of no stated platform. */
static bool is_ours(struct json_value descriptor)
{
	struct json_value platform = json_get(descriptor, "platform");
	if (json_type(platform) != JSON_OBJECT)
		return true;
	return json_string_is(json_get(platform, "os"), "linux") &&
	       json_string_is(json_get(platform, "architecture"), "amd64");
}

/* Whether two descriptors are of one blob: `docker save` lists an image once for each of its names. */
static bool same_digest(struct json_value a, struct json_value b)
{
	char *digest = NULL;
	struct err ignored;
	bool same =
	    json_string(json_get(a, "digest"), &digest, &ignored) == 0 && json_string_is(json_get(b, "digest"), digest);
	free(digest);
	return same;
}

/* Follows an index, or an index in an index, to the one image of ours. */
static int read_index(struct oci *o, struct json_value index, unsigned depth)
{
	struct json_value manifests = json_get(index, "manifests"), chosen = {0};
	struct err why;
	int rc = json_expect(manifests, JSON_ARRAY, &why);
	if (rc)
		return err_set(o->e, rc, "the index: %s", why.text);
	unsigned found = 0;
	struct json_iter it = JSON_ITER(manifests);
	while (json_next(&it))
		if (json_type(it.value) == JSON_OBJECT && is_ours(it.value) && !same_digest(it.value, chosen)) {
			chosen = it.value;
			found++;
		}
	if (found != 1)
		return err_set(o->e, -EINVAL, "the archive has %u images for linux/amd64 of %zu; save exactly one",
			       found, json_count(manifests));
	struct json *doc;
	rc = parse_blob(o, chosen, &doc);
	if (rc)
		return rc;
	bool is_index = json_type(json_get(json_root(doc), "manifests")) == JSON_ARRAY;
	if (is_index && depth == INDEX_DEPTH_MAX)
		rc = err_set(o->e, -EINVAL, "indexes are nested more than %d deep", INDEX_DEPTH_MAX);
	else
		rc = is_index ? read_index(o, json_root(doc), depth + 1) : read_manifest(o, json_root(doc));
	json_free(doc);
	return rc;
}

static int read_layout(struct oci *o, const struct container_file *index)
{
	struct json *doc;
	int rc = parse(o, index, "index.json", &doc);
	if (rc)
		return rc;
	rc = read_index(o, json_root(doc), 1);
	json_free(doc);
	return rc;
}

/* ---- docker save ---- */

/* The digest that a file's name in a `docker save` archive stands for; "" where it stands for none. */
static void digest_of_name(const char *name, char digest[DIGEST_TEXT_BYTES])
{
	const char *slash = strrchr(name, '/'), *base = slash ? slash + 1 : name;
	size_t n = strspn(base, "0123456789abcdef");
	bool whole = base[n] == 0 || strcmp(base + n, ".json") == 0;
	digest[0] = 0;
	if (n == 64 && whole)
		snprintf(digest, DIGEST_TEXT_BYTES, "sha256:%.64s", base);
}

static int find_named(struct oci *o, struct json_value name, const struct container_file **f,
		      char digest[DIGEST_TEXT_BYTES])
{
	char *text = NULL;
	struct err why;
	int rc = json_string(name, &text, &why);
	if (rc)
		return err_set(o->e, rc, "manifest.json: %s", why.text);
	*f = container_find(o->c, text);
	digest_of_name(text, digest);
	if (!*f)
		rc = err_set(o->e, -EINVAL, "'%.200s' is missing; the archive is incomplete", text);
	free(text);
	return rc;
}

static int read_docker_image(struct oci *o, struct json_value image)
{
	const struct container_file *f;
	char digest[DIGEST_TEXT_BYTES];
	int rc = find_named(o, json_get(image, "Config"), &f, digest);
	rc = rc || !digest[0] ? rc : check_digest(o, f, digest);
	rc = rc ? rc : parse(o, f, "the image's configuration", &o->config);
	struct json_iter it = JSON_ITER(json_get(image, "Layers"));
	if (rc == 0 && json_type(it.container) != JSON_ARRAY)
		rc = err_set(o->e, -EINVAL, "manifest.json: it lists no layers");
	while (rc == 0 && json_next(&it)) {
		/* Layers are tars named after what they are, or after nothing: their diff_id is what is checked. */
		rc = find_named(o, it.value, &f, digest);
		rc = rc ? rc : add_layer(o, f, "");
	}
	return rc;
}

static int read_docker(struct oci *o, const struct container_file *manifest)
{
	struct json *doc;
	int rc = parse(o, manifest, "manifest.json", &doc);
	if (rc)
		return rc;
	struct json_iter it = JSON_ITER(json_root(doc));
	if (json_type(it.container) != JSON_ARRAY || json_count(it.container) != 1)
		rc = err_set(o->e, -EINVAL, "the archive does not have exactly one image; save one");
	else
		rc = json_next(&it) ? read_docker_image(o, it.value) : -EINVAL;
	json_free(doc);
	return rc;
}

/* ---- Configuration and layers ---- */

static int check_platform(struct oci *o, struct json_value config)
{
	struct json_value os = json_get(config, "os"), arch = json_get(config, "architecture");
	char *text = NULL;
	struct err ignored;
	if (json_string_is(os, "linux") && json_string_is(arch, "amd64"))
		return 0;
	if (json_string(arch, &text, &ignored))
		text = NULL;
	int rc = err_set(o->e, -EINVAL, "the image is for %.40s, not linux/amd64; save the image for that platform",
			 text ? text : "an unknown platform");
	free(text);
	return rc;
}

static int apply_layers(struct oci *o, struct json_value diff_ids, struct tree *tree, struct spool *spool)
{
	if (json_type(diff_ids) != JSON_ARRAY || json_count(diff_ids) != o->layers)
		return err_set(o->e, -EINVAL,
			       "the configuration lists %zu layers, the manifest %u; the archive is damaged",
			       json_count(diff_ids), o->layers);
	struct json_iter it = JSON_ITER(diff_ids);
	for (unsigned i = 0; i < o->layers && json_next(&it); i++) {
		const struct layer *l = &o->layer[i];
		struct layer_digests d;
		int rc = layer_apply(tree, i + 1, l->blob, spool, &d, o->e);
		if (rc)
			return rc;
		if (l->digest[0] && strcmp(l->digest, d.packed) != 0)
			return err_set(o->e, -EINVAL,
				       "layer %u has the digest %s instead of %s; the archive is damaged", i + 1,
				       d.packed, l->digest);
		if (!json_string_is(it.value, d.unpacked))
			return err_set(
			    o->e, -EINVAL,
			    "layer %u unpacked has the digest %s, which is not its diff_id; the archive is damaged",
			    i + 1, d.unpacked);
	}
	return 0;
}

/*
 * Reads the image of a container: *config, whose parts the caller frees also on failure, and its files, into the empty
 * `tree` and `spool`. Returns 0, or -errno with the reason in `e`.
 */
int oci_read(const struct container *c, struct tree *tree, struct spool *spool, struct image_config *config,
	     struct err *e)
{
	struct oci *o = calloc(1, sizeof *o);
	if (!o)
		return err_sys(e, -ENOMEM, "image");
	o->c = c;
	o->e = e;
	const struct container_file *index = container_find(c, "index.json"),
				    *manifest = container_find(c, "manifest.json");
	int rc;
	if (index)
		rc = read_layout(o, index);
	else if (manifest)
		rc = read_docker(o, manifest);
	else
		rc = err_set(e, -EINVAL,
			     "the archive has neither index.json nor manifest.json; give what docker save (not docker export) "
			     "writes, or an OCI layout");
	struct json_value root = rc ? (struct json_value){0} : json_root(o->config);
	rc = rc ? rc : check_platform(o, root);
	if (rc == 0) {
		struct err why;
		rc = record_read_config(json_get(root, "config"), config, &why);
		if (rc)
			err_set(e, rc, "the image's configuration: %s", why.text);
	}
	rc = rc ? rc : apply_layers(o, json_get(json_get(root, "rootfs"), "diff_ids"), tree, spool);
	json_free(o->config);
	free(o);
	return rc;
}
