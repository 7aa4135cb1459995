/* SPDX-License-Identifier: MIT */
/* The header and the answer of a JSONSocket handshake. */
#include "fuzz.h"

#include "proto/jsonsocket/jsonsocket.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_text(data, size), why[256] = "";
	const char *message = NULL;
	cJSON *root = NULL, *header;
	int status = 0;

	header = jsock_header_parse(text, size, &status, why, sizeof(why));
	FUZZ_CHECK(header || (status >= 400 && why[0]));
	cJSON_Delete(header);
	(void)jsock_answer_parse(text, size, &root, &message);
	cJSON_Delete(root);
	free(text);
	return 0;
}
