/*
 * The merge of layers (OCI image specification, layer.md).
 *
 * Theory of operation
 * -------------------
 * Purpose: apply layers one after another: entries add or replace, whiteouts remove what lower layers had.
 *
 * Trust boundary: paths, link targets and metadata come from the archive. They only ever name nodes of this tree, never
 * files of the host: ".." is refused, symbolic links are followed inside the tree and a bounded number of times.
 *
 * Invariants: a directory's children are sorted and unique; only directories have children; `names` of an inode is the
 * number of nodes that refer to it.
 *
 * Limits: TREE_*_MAX.
 */
#include "vmm/image/tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "vmm/util/err.h"

enum {
	SYMLINKS_MAX = 40,
	PARENT_MODE = S_IFDIR | 0755, /* of directories that no layer names */
};

/* ---- Inodes ---- */

/* Makes a file with no name. NULL where memory is short. */
struct tree_inode *tree_inode_create(mode_t mode)
{
	struct tree_inode *i = calloc(1, sizeof *i);
	if (i)
		i->mode = mode;
	return i;
}

/* Gives up a file that has no name. NULL is accepted. */
void tree_inode_release(struct tree_inode *i)
{
	if (!i || i->names)
		return;
	for (unsigned n = 0; n < i->xattrs; n++) {
		free(i->xattr[n].name);
		free(i->xattr[n].value);
	}
	free(i->xattr);
	free(i->target);
	free(i->child);
	free(i);
}

/* Adds an extended attribute; the last of a name wins. Returns 0 or -ENOMEM. */
int tree_inode_add_xattr(struct tree_inode *i, const char *name, const void *value, size_t len_bytes)
{
	struct tree_xattr x = {strdup(name), malloc(len_bytes ? len_bytes : 1), len_bytes};
	if (x.name && x.value)
		memcpy(x.value, value, len_bytes);
	for (unsigned n = 0; x.name && x.value && n < i->xattrs; n++)
		if (strcmp(i->xattr[n].name, name) == 0) {
			free(i->xattr[n].name);
			free(i->xattr[n].value);
			i->xattr[n] = x;
			return 0;
		}
	struct tree_xattr *more = x.name && x.value ? reallocarray(i->xattr, i->xattrs + 1, sizeof *more) : NULL;
	if (!more) {
		free(x.name);
		free(x.value);
		return -ENOMEM;
	}
	i->xattr = more;
	i->xattr[i->xattrs++] = x;
	return 0;
}

/* ---- Nodes ---- */

static bool is_dir(const struct tree_node *n)
{
	return S_ISDIR(n->inode->mode);
}

/* Where `name` of `len` bytes is among the children of `dir`, or would be. */
static unsigned find_place(const struct tree_inode *dir, const char *name, size_t len, bool *found)
{
	unsigned low = 0, high = dir->children;
	*found = false;
	while (low < high) {
		unsigned middle = low + (high - low) / 2;
		const char *other = dir->child[middle]->name;
		int order = strncmp(name, other, len);
		if (order == 0 && other[len])
			order = -1;
		if (order == 0) {
			*found = true;
			return middle;
		}
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

static struct tree_node *find_child(const struct tree_node *dir, const char *name, size_t len)
{
	bool found;
	unsigned at = find_place(dir->inode, name, len, &found);
	return found ? dir->inode->child[at] : NULL;
}

/* Frees a node and what only it refers to. Depth is bounded by TREE_DEPTH_MAX. */
static void free_node(struct tree *t, struct tree_node *n)
{
	if (!n)
		return;
	if (is_dir(n))
		for (unsigned i = 0; i < n->inode->children; i++)
			free_node(t, n->inode->child[i]);
	n->inode->names--;
	tree_inode_release(n->inode);
	free(n->name);
	free(n);
	t->entries--;
}

static void remove_child(struct tree *t, struct tree_node *dir, unsigned at)
{
	struct tree_inode *d = dir->inode;
	free_node(t, d->child[at]);
	memmove(d->child + at, d->child + at + 1, (d->children - at - 1) * sizeof d->child[0]);
	d->children--;
}

/* Adds a child that is not there yet. Returns NULL where memory is short or the tree has too many entries. */
static struct tree_node *add_child(struct tree *t, struct tree_node *dir, const char *name, size_t len, unsigned layer,
				   struct tree_inode *inode)
{
	struct tree_inode *d = dir->inode;
	bool found;
	unsigned at = find_place(d, name, len, &found);
	if (t->entries >= TREE_ENTRIES_MAX)
		return NULL;
	if (d->children == d->child_room) {
		unsigned room = d->child_room ? 2 * d->child_room : 8;
		struct tree_node **more = reallocarray(d->child, room, sizeof *more);
		if (!more)
			return NULL;
		d->child = more;
		d->child_room = room;
	}
	struct tree_node *n = calloc(1, sizeof *n);
	char *copy = n ? strndup(name, len) : NULL;
	if (!copy) {
		free(n);
		return NULL;
	}
	*n = (struct tree_node){copy, layer, inode};
	inode->names++;
	memmove(d->child + at + 1, d->child + at, (d->children - at) * sizeof d->child[0]);
	d->child[at] = n;
	d->children++;
	t->entries++;
	return n;
}

/* Makes an empty tree. Returns 0 or -ENOMEM; tree_free() accepts the result either way. */
int tree_init(struct tree *t)
{
	*t = (struct tree){.root.inode = tree_inode_create(PARENT_MODE)};
	if (!t->root.inode)
		return -ENOMEM;
	t->root.inode->names = 1;
	return 0;
}

void tree_free(struct tree *t)
{
	if (!t->root.inode)
		return;
	while (t->root.inode->children)
		remove_child(t, &t->root, t->root.inode->children - 1);
	t->root.inode->names = 0;
	tree_inode_release(t->root.inode);
	t->root.inode = NULL;
}

/* ---- Paths ---- */

/* The place of a path: the directory it is in, and its last component; name "" for the root itself. */
struct place {
	struct tree_node *dir;
	const char *name;
	size_t len;
};

/* A walk along a path, following symbolic links in front of the last component. */
struct walk {
	struct tree *tree;
	unsigned layer;
	bool make; /* directories that are missing */
	unsigned links;
	struct tree_node *stack[TREE_DEPTH_MAX]; /* the directories from the root to where we are */
	unsigned depth;
	struct err *e;
};

static int out_of_memory(const struct tree *t, struct err *e)
{
	if (t->entries >= TREE_ENTRIES_MAX)
		return err_set(e, -E2BIG, "the image has more than %d files", TREE_ENTRIES_MAX);
	return err_sys(e, -ENOMEM, "image");
}

static int walk_dirs(struct walk *w, const char *path, size_t len);

/* Steps into directory `name`; a symbolic link to one is followed, anything else is in the way. */
static int step(struct walk *w, const char *name, size_t len)
{
	struct tree_node *dir = w->stack[w->depth - 1], *n = find_child(dir, name, len);
	if (n && S_ISLNK(n->inode->mode)) {
		if (++w->links > SYMLINKS_MAX)
			return err_set(w->e, -ELOOP, "too many symbolic links at '%s'", n->name);
		if (n->inode->target[0] == '/')
			w->depth = 1;
		return walk_dirs(w, n->inode->target, strlen(n->inode->target));
	}
	if (n && !is_dir(n) && !w->make)
		return -ENOENT;
	if (n && !is_dir(n)) {
		bool found;
		remove_child(w->tree, dir, find_place(dir->inode, name, len, &found));
		n = NULL;
	}
	if (!n && !w->make)
		return -ENOENT;
	if (n && w->make)
		n->layer = w->layer; /* this layer has something in it */
	if (w->depth == TREE_DEPTH_MAX)
		return err_set(w->e, -ENAMETOOLONG, "directories are nested more than %d deep", TREE_DEPTH_MAX);
	if (!n) {
		struct tree_inode *i = tree_inode_create(PARENT_MODE);
		n = i ? add_child(w->tree, dir, name, len, w->layer, i) : NULL;
		if (!n) {
			tree_inode_release(i);
			return out_of_memory(w->tree, w->e);
		}
	}
	w->stack[w->depth++] = n;
	return 0;
}

/* The next component of a path: skips slashes. Returns its length; 0 at the end. */
static size_t component(const char **path, const char *end)
{
	while (*path < end && **path == '/')
		(*path)++;
	const char *slash = memchr(*path, '/', (size_t)(end - *path));
	return (size_t)((slash ? slash : end) - *path);
}

static bool is(const char *name, size_t len, const char *what)
{
	return len == strlen(what) && memcmp(name, what, len) == 0;
}

static int walk_dirs(struct walk *w, const char *path, size_t len)
{
	const char *end = path + len;
	for (size_t n; (n = component(&path, end)); path += n) {
		if (is(path, n, "."))
			continue;
		if (is(path, n, "..")) { /* only in symbolic links; at the root it stays there */
			w->depth -= w->depth > 1;
			continue;
		}
		if (n > TREE_NAME_MAX_BYTES)
			return err_set(w->e, -ENAMETOOLONG, "a name is longer than %d bytes", TREE_NAME_MAX_BYTES);
		int rc = step(w, path, n);
		if (rc)
			return rc;
	}
	return 0;
}

/* Whether a path of an archive is one that an image may have: no "..", bounded. */
static int check_path(const char *path, struct err *e)
{
	size_t len = strlen(path);
	const char *end = path + len;
	if (len > TREE_PATH_MAX_BYTES)
		return err_set(e, -ENAMETOOLONG, "a path is longer than %d bytes", TREE_PATH_MAX_BYTES);
	for (size_t n; (n = component(&path, end)); path += n)
		if (is(path, n, ".."))
			return err_set(e, -EINVAL, "a path contains '..'");
	return 0;
}

/*
 * Finds the place of `path`. With `make`, missing directories are made, and files in their place are replaced. Returns
 * 0, -ENOENT where a directory is missing (without a text), or another -errno.
 */
static int find_path(struct tree *t, unsigned layer, const char *path, bool make, struct place *p, struct err *e)
{
	int rc = check_path(path, e);
	if (rc)
		return rc;
	size_t len = strlen(path);
	while (len && (path[len - 1] == '/' || (path[len - 1] == '.' && (len == 1 || path[len - 2] == '/'))))
		len--;
	size_t dir_len = len;
	while (dir_len && path[dir_len - 1] != '/')
		dir_len--;
	struct walk w = {.tree = t, .layer = layer, .make = make, .stack = {&t->root}, .depth = 1, .e = e};
	rc = walk_dirs(&w, path, dir_len);
	if (rc)
		return rc;
	*p = (struct place){w.stack[w.depth - 1], path + dir_len, len - dir_len};
	if (p->len > TREE_NAME_MAX_BYTES)
		return err_set(e, -ENAMETOOLONG, "a name is longer than %d bytes", TREE_NAME_MAX_BYTES);
	if (w.depth == TREE_DEPTH_MAX)
		return err_set(e, -ENAMETOOLONG, "directories are nested more than %d deep", TREE_DEPTH_MAX);
	return 0;
}

static struct tree_node *node_at(struct tree *t, const struct place *p)
{
	return p->len ? find_child(p->dir, p->name, p->len) : &t->root;
}

/* ---- Layers ---- */

/* A directory that is there already keeps its children and takes the metadata of `from`. */
static void take_metadata(struct tree_node *n, unsigned layer, struct tree_inode *from)
{
	struct tree_inode *i = n->inode, old = *i;
	n->layer = layer;
	i->mode = from->mode;
	i->uid = from->uid;
	i->gid = from->gid;
	i->mtime_s = from->mtime_s;
	i->mtime_ns = from->mtime_ns;
	i->xattr = from->xattr;
	i->xattrs = from->xattrs;
	from->xattr = old.xattr;
	from->xattrs = old.xattrs;
	tree_inode_release(from);
}

static int replace(struct tree *t, unsigned layer, const struct place *p, struct tree_inode *inode, struct err *e)
{
	bool found;
	unsigned at = find_place(p->dir->inode, p->name, p->len, &found);
	inode->names++; /* the old name may be the only one of the file that takes its place */
	if (found)
		remove_child(t, p->dir, at);
	inode->names--;
	return add_child(t, p->dir, p->name, p->len, layer, inode) ? 0 : out_of_memory(t, e);
}

/*
 * A layer's entry: the file `inode`, which the tree then owns (also on failure), at `path`. Returns 0 or -errno.
 */
int tree_put(struct tree *t, unsigned layer, const char *path, struct tree_inode *inode, struct err *e)
{
	struct place p;
	int rc = find_path(t, layer, path, true, &p, e);
	struct tree_node *n = rc ? NULL : node_at(t, &p);
	if (rc == 0 && p.len == 0 && !S_ISDIR(inode->mode))
		rc = err_set(e, -EINVAL, "the root is not a directory");
	if (rc == 0 && n && is_dir(n) && S_ISDIR(inode->mode)) {
		take_metadata(n, layer, inode);
		return 0;
	}
	rc = rc ? rc : replace(t, layer, &p, inode, e);
	if (rc)
		tree_inode_release(inode);
	return rc;
}

/* A layer's hard link: another name, `path`, for the file at `target`. Returns 0 or -errno. */
int tree_link(struct tree *t, unsigned layer, const char *path, const char *target, struct err *e)
{
	struct place from, to;
	int rc = find_path(t, layer, target, false, &from, e);
	struct tree_node *n = rc ? NULL : node_at(t, &from);
	if (rc == -ENOENT || (rc == 0 && !n))
		return err_set(e, -EINVAL, "a hard link refers to '%s', which is not in the image", target);
	if (rc)
		return rc;
	if (is_dir(n))
		return err_set(e, -EINVAL, "a hard link refers to the directory '%s'", target);
	if (n->inode->names >= TREE_LINKS_MAX)
		return err_set(e, -EMLINK, "'%s' has more than %d names", target, TREE_LINKS_MAX);
	struct tree_inode *inode = n->inode;
	inode->names++; /* making the directories of `path` may remove the target */
	rc = find_path(t, layer, path, true, &to, e);
	if (rc == 0 && to.len == 0)
		rc = err_set(e, -EINVAL, "the root is not a directory");
	n = rc ? NULL : node_at(t, &to);
	if (rc == 0 && (!n || n->inode != inode))
		rc = replace(t, layer, &to, inode, e);
	inode->names--;
	tree_inode_release(inode);
	return rc;
}

/* Removes what lower layers put below `dir`. */
static void prune(struct tree *t, struct tree_node *dir, unsigned layer)
{
	for (unsigned i = dir->inode->children; i-- > 0;) {
		struct tree_node *n = dir->inode->child[i];
		if (n->layer < layer)
			remove_child(t, dir, i);
		else if (is_dir(n))
			prune(t, n, layer);
	}
}

/* A layer's whiteout: what lower layers had at `path` goes, whatever the order in the layer. Returns 0 or -errno. */
int tree_whiteout(struct tree *t, unsigned layer, const char *path, struct err *e)
{
	struct place p;
	int rc = find_path(t, layer, path, false, &p, e);
	if (rc == -ENOENT)
		return 0;
	if (rc)
		return rc;
	if (p.len == 0)
		return err_set(e, -EINVAL, "a whiteout names the root");
	bool found;
	unsigned at = find_place(p.dir->inode, p.name, p.len, &found);
	struct tree_node *n = found ? p.dir->inode->child[at] : NULL;
	if (n && n->layer < layer)
		remove_child(t, p.dir, at);
	else if (n && is_dir(n))
		prune(t, n, layer);
	return 0;
}

/* A layer's opaque directory: what lower layers had in directory `path` goes. Returns 0 or -errno. */
int tree_opaque(struct tree *t, unsigned layer, const char *path, struct err *e)
{
	struct place p;
	int rc = find_path(t, layer, path, false, &p, e);
	struct tree_node *n = rc ? NULL : node_at(t, &p);
	if (n && is_dir(n))
		prune(t, n, layer);
	return rc == -ENOENT ? 0 : rc;
}
