/* SPDX-License-Identifier: MIT */
/* JSON text: what parses must print in every format and come back equal. */
#include "fuzz.h"

#include "l7mp/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_text(data, size), message[128];
	int line = -1;
	cJSON *tree = l7mp_json_parse(text, size, &line, message, sizeof(message));

	if (!tree) {
		FUZZ_CHECK(message[0] && line >= 0);
	} else {
		for (int f = L7MP_JSON_PLAIN; f <= L7MP_JSON_DIFFY; f++) {
			char *printed = l7mp_json_print(tree, (enum l7mp_json_format)f);
			cJSON *again;

			FUZZ_CHECK(printed);
			if (f == L7MP_JSON_PLAIN || f == L7MP_JSON_SPACE || f == L7MP_JSON_LINES) {
				again = l7mp_json_parse(printed, strlen(printed), NULL, message,
				                        sizeof(message));
				FUZZ_CHECK(again && l7mp_json_equal(tree, again));
				cJSON_Delete(again);
			}
			free(printed);
		}
	}
	cJSON_Delete(tree);
	free(text);
	return 0;
}
