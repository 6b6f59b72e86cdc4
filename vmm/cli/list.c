#include "vmm/cli/list.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/util/err.h"
#include "vmm/util/strv.h"

/* Adds each of a comma-separated list, the value of `option`. Returns 0, -EINVAL where an item is empty, or -ENOMEM. */
int cli_add_list(struct strv *list, const char *text, const char *option, struct err *e)
{
	do {
		size_t n = strcspn(text, ",");
		char *item = n ? strndup(text, n) : NULL;
		int rc = n == 0 ? err_set(e, -EINVAL, "%s: an empty item in the list", option)
				: !item || strv_add(list, item) ? err_sys(e, -ENOMEM, "options") : 0;
		free(item);
		if (rc)
			return rc;
		text += n + (text[n] == ',');
		if (text[-1] == ',' && !*text)
			return err_set(e, -EINVAL, "%s: an empty item in the list", option);
	} while (*text);
	return 0;
}
