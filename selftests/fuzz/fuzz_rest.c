/* SPDX-License-Identifier: MIT */
/*
 * "METHOD target content-type", then a body, through the REST router into a real
 * model: always an answer with a status, and JSON when it says so. Objects live
 * for a while, so that requests meet what others made.
 */
#include "fuzz.h"

#include "api_fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct api_fixture *fx;
	static unsigned n;
	char *line = fuzz_text(data, size), *body = fuzz_cut(line), *rest = NULL;
	char *method = strtok_r(line, " ", &rest), *target = strtok_r(NULL, " ", &rest);

	if (!fx)
		fx = fixture_new();
	if (method && target) {
		int status = fixture_request(fx, method, target, rest && *rest ? rest : NULL, body);

		FUZZ_CHECK(status >= 200 && status <= 503 && status != 500);
		/* HEAD has no body; ?format=terse is not JSON. */
		FUZZ_CHECK(status < 400 || !fx->json || fixture_message(fx)[0]);
	}
	if (++n % 500 == 0)
		fixture_free(fx), fx = NULL;
	free(line);
	return 0;
}
