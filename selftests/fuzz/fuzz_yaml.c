/* SPDX-License-Identifier: MIT */
/* YAML text: what parses must print as YAML and come back equal. */
#include "fuzz.h"

#include "l7mp/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_text(data, size), *printed;
	struct l7mp_document *d = NULL, *again = NULL;
	struct l7mp_error err = {0};

	if (l7mp_document_parse(L7MP_SYNTAX_YAML, text, size, &d, &err)) {
		FUZZ_CHECK(!d && err.message[0]);
	} else {
		printed = l7mp_yaml_print(l7mp_document_root(d));
		FUZZ_CHECK(printed);
		if (l7mp_document_parse(L7MP_SYNTAX_YAML, printed, strlen(printed), &again, &err)) {
			fprintf(stderr, "printed:\n%s\n%s\n", printed, err.message);
			abort();
		}
		FUZZ_CHECK(l7mp_json_equal(l7mp_document_root(d), l7mp_document_root(again)));
		free(printed);
	}
	l7mp_document_free(&d);
	l7mp_document_free(&again);
	free(text);
	return 0;
}
