/* SPDX-License-Identifier: MIT */
/* A predicate, then metadata: compiles or says why not, and always comes to an end. */
#include "fuzz.h"

#include "l7mp/predicate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *match = fuzz_text(data, size), *metadata = fuzz_cut(match), message[128];
	cJSON *m = l7mp_json_parse(match, strlen(match), NULL, message, sizeof(message));
	cJSON *d = l7mp_json_parse(metadata, strlen(metadata), NULL, message, sizeof(message));
	struct l7mp_predicate *p = NULL;
	struct l7mp_issues issues;

	l7mp_issues_init(&issues, false);
	if (m) {
		int rc = l7mp_predicate_compile(m, "match", &issues, &p);

		FUZZ_CHECK(rc == 0 ? p != NULL : issues.errors > 0);
		if (p && d) {
			struct l7mp_effort a = L7MP_EFFORT, b = L7MP_EFFORT;

			FUZZ_CHECK(l7mp_predicate_eval(p, d, &a) == l7mp_predicate_eval(p, d, &b));
			FUZZ_CHECK(a.left == b.left && a.exhausted == b.exhausted);
		}
	}
	l7mp_predicate_free(&p);
	l7mp_issues_clear(&issues);
	cJSON_Delete(m);
	cJSON_Delete(d);
	free(match);
	return 0;
}
