/* SPDX-License-Identifier: MIT */
/* A JSON pointer, then a document: what `set` puts somewhere, `get` finds there. */
#include "fuzz.h"

#include "l7mp/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *pointer = fuzz_text(data, size), *text = fuzz_cut(pointer), message[128];
	cJSON *tree = l7mp_json_parse(text, strlen(text), NULL, message, sizeof(message));
	cJSON *before, *value, *found;

	if (tree) {
		(void)l7mp_json_get(tree, pointer);
		before = cJSON_Duplicate(tree, true);
		value = cJSON_CreateString("fuzz");
		FUZZ_CHECK(before && value);
		if (l7mp_json_set(tree, pointer, value)) {
			FUZZ_CHECK(l7mp_json_equal(tree, before));
		} else {
			FUZZ_CHECK(l7mp_json_pointer_valid(pointer));
			found = l7mp_json_get(tree, pointer);
			/* "-" is the place behind the last one: there never is something. */
			FUZZ_CHECK(strchr(pointer, '-') || (found && cJSON_IsString(found) &&
			                                    !strcmp(found->valuestring, "fuzz")));
		}
		cJSON_Delete(before);
	}
	cJSON_Delete(tree);
	free(pointer);
	return 0;
}
