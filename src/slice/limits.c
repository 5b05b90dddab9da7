// SPDX-License-Identifier: Apache-2.0
// What a slice may use: the grammar of limits, in a file's text or in the environment. See limits.h. Where a file comes
// from and whether it may be believed is limits_file.c's.
#include "slice/limits.h"

#include <string.h>

#include "slice/format.h"
#include "slice/limits_parser.h"

// A piece of text, not terminated.
struct span {
	const char *text;
	size_t length;
};

static bool equals(struct span span, const char *word) {
	return span.length == strlen(word) && memcmp(span.text, word, span.length) == 0;
}

static bool starts_with(struct span span, const char *prefix) {
	return span.length >= strlen(prefix) && memcmp(span.text, prefix, strlen(prefix)) == 0;
}

// ASCII only: the program's locale has no say in what a limit is.
static char lower(char character) {
	return character >= 'A' && character <= 'Z' ? (char)(character + ('a' - 'A')) : character;
}

static bool is_blank(char character) {
	return character == ' ' || character == '\t';
}

static struct span trim(struct span span) {
	while (span.length > 0 && is_blank(span.text[0])) {
		span.text++;
		span.length--;
	}
	while (span.length > 0 && is_blank(span.text[span.length - 1]))
		span.length--;
	return span;
}

// A foreign text for a message: short, printable.
struct quoted {
	char text[44];
};

static struct quoted quote(struct span span) {
	struct quoted quoted = {{0}};
	size_t room = sizeof(quoted.text) - sizeof("...");
	bool cut = span.length > room;
	for (size_t i = 0; i < (cut ? room : span.length); i++)
		quoted.text[i] = span.text[i] >= ' ' && span.text[i] <= '~' ? span.text[i] : '?';
	if (cut)
		memcpy(quoted.text + room, "...", sizeof("..."));
	return quoted;
}

enum softmig_limits_status softmig_limits_refuse(struct softmig_limits_error *error, int line, const char *format,
                                                 ...) {
	if (error != NULL) {
		va_list list;
		va_start(list, format);
		error->line = line;
		softmig_format_list(error->message, sizeof(error->message), format, list);
		va_end(list);
	}
	return SOFTMIG_LIMITS_BAD;
}

void softmig_limits_init(struct softmig_limits *limits) {
	memset(limits, 0, sizeof(*limits));
	memset(limits->sm_pct, 100, sizeof(limits->sm_pct));
	limits->log_level = -1;
	limits->share_mode = SOFTMIG_SHARE_CAP;
}

bool softmig_limits_parse_bytes(const char *text, size_t length, uint64_t *bytes) {
	size_t digits = 0;
	while (digits < length && text[digits] >= '0' && text[digits] <= '9')
		digits++;
	uint64_t number;
	if (!softmig_parse_decimal(text, digits, INT64_MAX, &number) || number == 0)
		return false;
	unsigned shift = 0;
	struct span unit = {text + digits, length - digits};
	if (unit.length > 0) {
		switch (lower(unit.text[0])) {
		case 'k': shift = 10; break;
		case 'm': shift = 20; break;
		case 'g': shift = 30; break;
		case 't': shift = 40; break;
		default: return false;
		}
		bool bare = unit.length == 1;
		bool with_b = unit.length == 2 && lower(unit.text[1]) == 'b';
		bool with_ib = unit.length == 3 && lower(unit.text[1]) == 'i' && lower(unit.text[2]) == 'b';
		if (!bare && !with_b && !with_ib)
			return false;
	}
	if (number > (uint64_t)INT64_MAX >> shift)
		return false;
	*bytes = number << shift;
	return true;
}

bool softmig_limits_parse_pct(const char *text, size_t length, uint8_t *pct) {
	uint64_t number;
	if (!softmig_parse_decimal(text, length, 100, &number))
		return false;
	*pct = number == 0 ? 100 : (uint8_t)number;
	return true;
}

static int hexadecimal(char character) {
	character = lower(character);
	if (character >= '0' && character <= '9')
		return character - '0';
	return character >= 'a' && character <= 'f' ? character - 'a' + 10 : -1;
}

bool softmig_limits_parse_uuid(const char *text, size_t length, uint8_t uuid[16]) {
	static const char form[] = "GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
	uint8_t parsed[16] = {0};
	if (length != sizeof(form) - 1)
		return false;
	for (size_t i = 0, nibble = 0; i < length; i++) {
		int digit = form[i] == 'x' ? hexadecimal(text[i]) : 0;
		if (digit < 0 || (form[i] != 'x' && lower(text[i]) != lower(form[i])))
			return false;
		if (form[i] == 'x') {
			parsed[nibble / 2] = (uint8_t)(parsed[nibble / 2] << 4 | digit);
			nibble++;
		}
	}
	memcpy(uuid, parsed, sizeof(parsed));
	return true;
}

// What a key's value is put into.
enum kind { KIND_MEMORY, KIND_SM, KIND_UUID, KIND_OOM_KILLER, KIND_LOG_LEVEL, KIND_OLD_LOG_LEVEL, KIND_SHARE_MODE };

struct key {
	const char *name;
	enum kind kind;
	int general;  // index of seen[] for the bare name, -1: only with a GPU number
	int numbered; // of the name with _0, -1: takes no GPU number
};

static const struct key keys[] = {
	{"CUDA_DEVICE_MEMORY_LIMIT", KIND_MEMORY, SOFTMIG_KEY_MEMORY, SOFTMIG_KEY_MEMORY_OF},
	{"CUDA_DEVICE_SM_LIMIT", KIND_SM, SOFTMIG_KEY_SM, SOFTMIG_KEY_SM_OF},
	{"SOFTMIG_GPU_UUID", KIND_UUID, -1, SOFTMIG_KEY_UUID_OF},
	{"ACTIVE_OOM_KILLER", KIND_OOM_KILLER, SOFTMIG_KEY_OOM_KILLER, -1},
	{"SOFTMIG_LOG_LEVEL", KIND_LOG_LEVEL, SOFTMIG_KEY_LOG_LEVEL, -1},
	{"LIBCUDA_LOG_LEVEL", KIND_OLD_LOG_LEVEL, SOFTMIG_KEY_OLD_LOG_LEVEL, -1},
	{"SOFTMIG_SHARE_MODE", KIND_SHARE_MODE, SOFTMIG_KEY_SHARE_MODE, -1},
};

static const char *const environment_only[] = {"SOFTMIG_LOG_FILE", "SOFTMIG_LOCK_FILE",
                                               "CUDA_DEVICE_MEMORY_SHARED_CACHE"};

// The key that name is or is a numbered form of; suffix is what follows its name, "_" and all.
static const struct key *find_key(struct span name, struct span *suffix) {
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		size_t length = strlen(keys[i].name);
		if (!starts_with(name, keys[i].name))
			continue;
		*suffix = (struct span){name.text + length, name.length - length};
		if (suffix->length == 0 ? keys[i].general >= 0 : keys[i].numbered >= 0 && suffix->text[0] == '_')
			return &keys[i];
	}
	return NULL;
}

// One digit of the range 0..highest.
static bool parse_choice(struct span value, int highest, int *choice) {
	if (value.length != 1 || value.text[0] < '0' || value.text[0] > '0' + highest)
		return false;
	*choice = value.text[0] - '0';
	return true;
}

static enum softmig_limits_status refuse_value(struct softmig_limits_parser *parser, struct span name,
                                               struct span value, const char *expected) {
	return softmig_limits_refuse(parser->error, parser->line, "%s is '%s', which is not %s", quote(name).text,
	                             quote(value).text, expected);
}

// Stores value; gpu is -1 for the general form.
static enum softmig_limits_status store(struct softmig_limits_parser *parser, const struct key *key, int gpu,
                                        struct span name, struct span value) {
	struct softmig_limits *limits = parser->limits;
	int choice = 0;
	switch (key->kind) {
	case KIND_MEMORY:
		if (!softmig_limits_parse_bytes(value.text, value.length,
		                                gpu < 0 ? &parser->memory_bytes : &limits->memory_bytes[gpu]))
			return refuse_value(parser, name, value, "a size such as 12288M or 24G (K, M, G, T, at least 1 byte)");
		limits->has_memory = true;
		break;
	case KIND_SM:
		if (!softmig_limits_parse_pct(value.text, value.length, gpu < 0 ? &parser->sm_pct : &limits->sm_pct[gpu]))
			return refuse_value(parser, name, value, "a percentage from 0 to 100");
		limits->has_sm = true;
		break;
	case KIND_UUID:
		if (!softmig_limits_parse_uuid(value.text, value.length, limits->uuid[gpu]))
			return refuse_value(parser, name, value, "a GPU's UUID (GPU-8-4-4-4-12 hexadecimal digits)");
		limits->has_uuid[gpu] = true;
		break;
	case KIND_OOM_KILLER:
		if (!parse_choice(value, 1, &choice))
			return refuse_value(parser, name, value, "0 or 1");
		limits->oom_killer = choice == 1;
		break;
	case KIND_LOG_LEVEL:
		if (!parse_choice(value, 4, &limits->log_level))
			return refuse_value(parser, name, value, "a level from 0 to 4");
		break;
	case KIND_OLD_LOG_LEVEL:
		if (!parse_choice(value, 4, &parser->old_log_level))
			return refuse_value(parser, name, value, "a level from 0 to 4");
		break;
	case KIND_SHARE_MODE:
		if (!equals(value, "cap") && !equals(value, "borrow"))
			return refuse_value(parser, name, value, "cap or borrow");
		limits->share_mode = equals(value, "cap") ? SOFTMIG_SHARE_CAP : SOFTMIG_SHARE_BORROW;
		break;
	}
	return SOFTMIG_LIMITS_OK;
}

// Which GPU a suffix names, -1 for none, -2 where it is not _0 to _15 written plainly.
static int gpu_of_suffix(struct span suffix) {
	uint64_t gpu;
	if (suffix.length == 0)
		return -1;
	if (suffix.length > 2 && suffix.text[1] == '0') // _00 would be a second name for _0
		return -2;
	return softmig_parse_decimal(suffix.text + 1, suffix.length - 1, SOFTMIG_MAX_GPUS - 1, &gpu) ? (int)gpu : -2;
}

// name is known to be key's. repeated: what to do when it has been given before.
static enum softmig_limits_status apply(struct softmig_limits_parser *parser, const struct key *key, struct span name,
                                        struct span suffix, struct span value, bool repeated_is_bad) {
	int gpu = gpu_of_suffix(suffix);
	if (gpu == -2)
		return softmig_limits_refuse(parser->error, parser->line, "%s names no GPU from 0 to %d", quote(name).text,
		                             SOFTMIG_MAX_GPUS - 1);
	int *seen = &parser->seen[gpu < 0 ? key->general : key->numbered + gpu];
	if (*seen != 0 && !repeated_is_bad)
		return SOFTMIG_LIMITS_OK;
	if (*seen != 0)
		return softmig_limits_refuse(parser->error, parser->line, "%s is given twice, first in line %d",
		                             quote(name).text, *seen);
	*seen = parser->line > 0 ? parser->line : 1;
	return store(parser, key, gpu, name, value);
}

static enum softmig_limits_status parse_line(struct softmig_limits_parser *parser) {
	struct span line = {parser->text, parser->line_length};
	if (memchr(line.text, '\0', line.length) != NULL)
		return softmig_limits_refuse(parser->error, parser->line, "holds a NUL byte");
	if (parser->line == 1 && starts_with(line, "\xef\xbb\xbf"))
		return softmig_limits_refuse(parser->error, parser->line,
		                             "starts with a byte order mark; plain text is expected");
	if (line.length > 0 && line.text[line.length - 1] == '\r')
		line.length--;
	for (size_t i = 0; i < line.length; i++) {
		if (line.text[i] == '#' && (i == 0 || is_blank(line.text[i - 1])))
			line.length = i;
	}
	line = trim(line);
	if (line.length == 0)
		return SOFTMIG_LIMITS_OK;
	const char *equal = memchr(line.text, '=', line.length);
	if (equal == NULL)
		return softmig_limits_refuse(parser->error, parser->line, "'%s' has no '='; KEY=VALUE is expected",
		                             quote(line).text);
	size_t before = (size_t)(equal - line.text);
	struct span name = trim((struct span){line.text, before}), suffix;
	struct span value = trim((struct span){equal + 1, line.length - before - 1});
	for (size_t i = 0; i < sizeof(environment_only) / sizeof(environment_only[0]); i++) {
		if (equals(name, environment_only[i]))
			return softmig_limits_refuse(parser->error, parser->line, "%s is for the environment only",
			                             environment_only[i]);
	}
	const struct key *key = find_key(name, &suffix);
	if (key == NULL)
		return softmig_limits_refuse(parser->error, parser->line, "unknown key '%s'", quote(name).text);
	return apply(parser, key, name, suffix, value, true);
}

static void end_line(struct softmig_limits_parser *parser) {
	parser->line++;
	parser->failed = parse_line(parser) != SOFTMIG_LIMITS_OK;
	parser->line_length = 0;
}

void softmig_limits_parser_begin(struct softmig_limits_parser *parser, struct softmig_limits *limits,
                                 struct softmig_limits_error *error) {
	memset(parser, 0, sizeof(*parser));
	parser->limits = limits;
	parser->error = error;
	parser->sm_pct = 100;
	parser->old_log_level = -1;
	softmig_limits_init(limits);
}

bool softmig_limits_parser_feed(struct softmig_limits_parser *parser, const char *text, size_t length) {
	for (size_t i = 0; i < length && !parser->failed; i++) {
		if (++parser->total_bytes > SOFTMIG_LIMITS_FILE_BYTES) {
			softmig_limits_refuse(parser->error, 0, "is larger than %d KiB", SOFTMIG_LIMITS_FILE_BYTES / 1024);
			parser->failed = true;
		} else if (text[i] == '\n') {
			end_line(parser);
		} else if (parser->line_length == sizeof(parser->text)) {
			softmig_limits_refuse(parser->error, parser->line + 1, "is longer than %d characters",
			                      SOFTMIG_LIMITS_LINE_BYTES);
			parser->failed = true;
		} else {
			parser->text[parser->line_length++] = text[i];
		}
	}
	return !parser->failed;
}

// The general values for the GPUs without their own, and what can only be judged at the end.
static enum softmig_limits_status finish(struct softmig_limits_parser *parser) {
	struct softmig_limits *limits = parser->limits;
	if (limits->log_level < 0)
		limits->log_level = parser->old_log_level;
	for (int gpu = 0; gpu < SOFTMIG_MAX_GPUS; gpu++) {
		if (!parser->seen[SOFTMIG_KEY_MEMORY_OF + gpu])
			limits->memory_bytes[gpu] = parser->memory_bytes;
		if (!parser->seen[SOFTMIG_KEY_SM_OF + gpu])
			limits->sm_pct[gpu] = parser->sm_pct;
		for (int other = 0; other < gpu; other++) {
			if (limits->has_uuid[gpu] && limits->has_uuid[other] &&
			    memcmp(limits->uuid[gpu], limits->uuid[other], sizeof(limits->uuid[gpu])) == 0)
				return softmig_limits_refuse(parser->error, parser->line > 0 ? parser->seen[SOFTMIG_KEY_UUID_OF + gpu] : 0,
				                             "SOFTMIG_GPU_UUID_%d is the same GPU as SOFTMIG_GPU_UUID_%d", gpu, other);
		}
	}
	return SOFTMIG_LIMITS_OK;
}

enum softmig_limits_status softmig_limits_parser_end(struct softmig_limits_parser *parser) {
	if (!parser->failed && parser->line_length > 0)
		end_line(parser);
	bool named = false;
	for (int i = 0; i < SOFTMIG_KEY_COUNT; i++)
		named |= parser->seen[i] != 0;
	enum softmig_limits_status status = SOFTMIG_LIMITS_BAD;
	if (!parser->failed && !named)
		softmig_limits_refuse(parser->error, 0, "names no key: it is empty or was cut short");
	else if (!parser->failed)
		status = finish(parser);
	if (status != SOFTMIG_LIMITS_OK)
		softmig_limits_init(parser->limits);
	return status;
}

enum softmig_limits_status softmig_limits_parse(const char *text, size_t length, struct softmig_limits *limits,
                                                struct softmig_limits_error *error) {
	struct softmig_limits_parser parser;
	softmig_limits_parser_begin(&parser, limits, error);
	softmig_limits_parser_feed(&parser, text, length);
	return softmig_limits_parser_end(&parser);
}

enum softmig_limits_status softmig_limits_from_environment(char *const *environment, struct softmig_limits *limits,
                                                           struct softmig_limits_error *error) {
	struct softmig_limits_parser parser;
	softmig_limits_parser_begin(&parser, limits, error);
	bool limited = false;
	enum softmig_limits_status status = SOFTMIG_LIMITS_OK;
	for (int pass = 0; pass < 2 && status == SOFTMIG_LIMITS_OK; pass++) {
		for (char *const *pair = environment; pair != NULL && *pair != NULL && status == SOFTMIG_LIMITS_OK; pair++) {
			const char *equal = strchr(*pair, '=');
			if (equal == NULL)
				continue;
			struct span name = {*pair, (size_t)(equal - *pair)}, suffix;
			const struct key *key = find_key(name, &suffix);
			if (key == NULL)
				continue;
			if (pass == 0)
				limited |= key->kind == KIND_MEMORY || key->kind == KIND_SM;
			else
				status = apply(&parser, key, name, suffix, (struct span){equal + 1, strlen(equal + 1)}, false);
		}
		if (!limited)
			return SOFTMIG_LIMITS_ABSENT;
	}
	if (status == SOFTMIG_LIMITS_OK)
		status = finish(&parser);
	if (status != SOFTMIG_LIMITS_OK)
		softmig_limits_init(limits);
	return status;
}
