/*
 * Bad input as a person meets it: real files, the real program. Each gives one line that says what and where, its exit
 * status, and leaves nothing behind. (The modules' own tests have many more kinds of damage.)
 */

#include <criterion/criterion.h>

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "plimsoll/file.h"

#define FIXTURES PLIMSOLL_SOURCE "/engine/tests/data/exl2-llama-tiny"
#define WEIGHTS "output.safetensors"

static char directory[] = "/tmp/plimsoll-bad-XXXXXX";

/* ---- the program ---- */

static void shell(const char *command)
{
    char line[1200];
    snprintf(line, sizeof line, "cd %s && %s", directory, command);
    cr_assert_eq(system(line), 0, "%s", line);
}

static size_t file_count(void)
{
    static const char *const folders[] = { "", "/m", "/baselines/exact", "/results" };
    size_t count = 0;
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        char path[80];
        snprintf(path, sizeof path, "%s%s", directory, folders[i]);
        DIR *dir = opendir(path);
        while (dir && readdir(dir))
            count++;
        if (dir)
            closedir(dir);
    }
    return count;
}

/* `plimsoll ARGUMENTS` in the directory says one line with `words` in it, exits with `status` and makes no file. */
static void refuses_with(int status, const char *words, const char *arguments)
{
    char command[1200], said[4000];
    size_t files = file_count();
    snprintf(command, sizeof command, "cd %s && %s %s 2>&1", directory, PLIMSOLL_PROGRAM, arguments);
    FILE *pipe = popen(command, "r");
    cr_assert_not_null(pipe);
    size_t length = fread(said, 1, sizeof said - 1, pipe);
    said[length] = '\0';
    int ended = pclose(pipe);
    cr_assert(WIFEXITED(ended), "%s", said);
    cr_expect_eq(WEXITSTATUS(ended), status, "%s: status %d: %s", arguments, WEXITSTATUS(ended), said);
    cr_expect(strstr(said, words), "%s: no \"%s\" in: %s", arguments, words, said);
    cr_expect(length > 0 && strchr(said, '\n') == said + length - 1, "%s: not one line: %s", arguments, said);
    cr_expect_eq(file_count(), files, "%s left something behind", arguments);
}

static void model_is_refused(const char *words)
{
    refuses_with(2, words, "generate m --prompt hello --max-tokens 1");
}

/* ---- damage ---- */

static char *read_whole(const char *name, size_t *bytes)
{
    struct plim_err err = PLIM_ERR_INIT;
    char path[80], *text;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    cr_assert_eq(plim_read_file(path, (size_t)1 << 24, &text, bytes, &err), 0, "%s", err.message);
    return text;
}

static FILE *open_to_write(const char *name)
{
    char path[80];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "wb");
    cr_assert_not_null(file);
    return file;
}

static void write_text(const char *name, const char *text)
{
    FILE *file = open_to_write(name);
    fputs(text, file);
    fclose(file);
}

/* A fresh copy of a fixture in m/. */
static void fresh_model(const char *fixture)
{
    char command[300];
    snprintf(command, sizeof command, "rm -rf m && cp -r " FIXTURES "/%s m && chmod -R u+w m", fixture);
    shell(command);
}

/* Replaces the first `from` behind the first `after` in m/FILE. */
static void replace(const char *name, const char *after, const char *from, const char *to)
{
    char path[64];
    size_t bytes;
    snprintf(path, sizeof path, "m/%s", name);
    char *text = read_whole(path, &bytes);
    char *at = strstr(text, after);
    at = at ? strstr(at, from) : NULL;
    cr_assert_not_null(at, "no %s after %s in %s", from, after, name);
    FILE *file = open_to_write(path);
    fwrite(text, 1, (size_t)(at - text), file);
    fputs(to, file);
    fwrite(at + strlen(from), 1, bytes - (size_t)(at - text) - strlen(from), file);
    fclose(file);
    free(text);
}

struct weights {
    uint64_t header_bytes;
    char *header;               /* a string */
    char *data;
    size_t data_bytes;
    char *file;
};

static struct weights read_weights(void)
{
    struct weights w;
    size_t bytes;
    w.file = read_whole("m/" WEIGHTS, &bytes);
    memcpy(&w.header_bytes, w.file, sizeof w.header_bytes);
    w.header = strndup(w.file + sizeof w.header_bytes, w.header_bytes);
    w.data = w.file + sizeof w.header_bytes + w.header_bytes;
    w.data_bytes = bytes - sizeof w.header_bytes - w.header_bytes;
    return w;
}

static void write_weights(struct weights *w, const char *header)
{
    uint64_t header_bytes = strlen(header);
    FILE *file = open_to_write("m/" WEIGHTS);
    fwrite(&header_bytes, sizeof header_bytes, 1, file);
    fwrite(header, 1, header_bytes, file);
    fwrite(w->data, 1, w->data_bytes, file);
    fclose(file);
    free(w->header);
    free(w->file);
}

/* In the entry of `tensor`, the text of `key`'s value becomes `value`. */
static void set_in_header(const char *tensor, const char *key, const char *value)
{
    struct weights w = read_weights();
    char quoted[160];
    snprintf(quoted, sizeof quoted, "\"%s\"", tensor);
    char *entry = strstr(w.header, quoted);
    cr_assert_not_null(entry, "%s", tensor);
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    char *from = strstr(entry, quoted) + strlen(quoted);
    char *to = from + (*from == '[' ? strcspn(from, "]") + 1 : strcspn(from, ",}"));
    size_t size = w.header_bytes + strlen(value) + 1;
    char *header = malloc(size);
    snprintf(header, size, "%.*s%s%s", (int)(from - w.header), w.header, value, to);
    write_weights(&w, header);
    free(header);
}

static void set_data(const char *tensor, size_t offset, const void *bytes, size_t count)
{
    struct weights w = read_weights();
    char quoted[160], *header = strdup(w.header);
    size_t begin;
    snprintf(quoted, sizeof quoted, "\"%s\"", tensor);
    char *entry = strstr(w.header, quoted);
    cr_assert_not_null(entry, "%s", tensor);
    cr_assert_eq(sscanf(strstr(entry, "data_offsets"), "data_offsets\":[%zu", &begin), 1);
    memcpy(w.data + begin + offset, bytes, count);
    write_weights(&w, header);
    free(header);
}

static void set_u16(const char *tensor, size_t index, uint16_t value)
{
    set_data(tensor, 2 * index, &value, sizeof value);
}

static void set_i32(const char *tensor, size_t index, int32_t value)
{
    set_data(tensor, 4 * index, &value, sizeof value);
}

/* ---- tests ---- */

static void set_up(void)
{
    cr_assert_not_null(mkdtemp(directory));
    fresh_model("exl2-4.0");
}

static void tear_down(void)
{
    char command[100];
    snprintf(command, sizeof command, "rm -r %s", directory);
    cr_expect_eq(system(command), 0);
}

TestSuite(bad_input, .init = set_up, .fini = tear_down);

#define UP "model.layers.0.mlp.up_proj"
#define NORM "model.layers.1.input_layernorm.weight"

Test(bad_input, what_is_not_damaged_runs)
{
    shell(PLIMSOLL_PROGRAM " generate m --prompt hello --max-tokens 1 > out.txt 2>&1");
    set_in_header(NORM, "dtype", "\"F16\"");
    set_u16(UP ".q_groups", 1, 0);
    shell(PLIMSOLL_PROGRAM " generate m --prompt hello --max-tokens 1 > out.txt 2>&1");
}

Test(bad_input, weights_that_are_cut_short)
{
    shell("head -c 300000 " FIXTURES "/exl2-4.0/" WEIGHTS " > m/" WEIGHTS);
    model_is_refused("outside the file's");
    shell("head -c 100 " FIXTURES "/exl2-4.0/" WEIGHTS " > m/" WEIGHTS);
    model_is_refused("truncated");
    shell(": > m/" WEIGHTS);
    model_is_refused("truncated: 0 bytes");
}

Test(bad_input, hostile_headers)
{
    shell("printf '\\377\\377\\377\\377\\377\\377\\377\\177{}' > m/" WEIGHTS);
    model_is_refused("header length 9223372036854775807 is over the limit");

    char deep[5000];
    memset(deep, '[', sizeof deep);
    memcpy(deep, "{\"a\":", 5);
    deep[sizeof deep - 1] = '\0';
    fresh_model("exl2-4.0");
    struct weights w = read_weights();
    write_weights(&w, deep);
    model_is_refused("nested deeper");

    fresh_model("exl2-4.0");
    w = read_weights();
    char *twice = malloc(w.header_bytes + 200);
    snprintf(twice, w.header_bytes + 200, "{\"" NORM "\":{\"dtype\":\"F16\",\"shape\":[0],\"data_offsets\":[0,0]},%s",
             w.header + 1);
    write_weights(&w, twice);
    free(twice);
    model_is_refused("duplicate key \"" NORM "\"");
}

Test(bad_input, tensors_where_they_cannot_be)
{
    set_in_header(NORM, "data_offsets", "[0,512]");
    model_is_refused("overlap");
    fresh_model("exl2-4.0");
    set_in_header(NORM, "data_offsets", "[99999488,100000000]");
    model_is_refused(NORM ": data_offsets [99999488, 100000000] are outside");
}

Test(bad_input, tensors_of_the_wrong_kind)
{
    set_in_header(NORM, "shape", "[128,2]");
    model_is_refused(NORM ": shape [128, 2], expected [256]");
    fresh_model("exl2-4.0");
    set_in_header(NORM, "dtype", "\"I16\"");
    model_is_refused(NORM ": dtype I16, expected F32 or F16");
}

Test(bad_input, a_shard_that_is_missing)
{
    fresh_model("dense");
    shell("mv m/model.safetensors m/model-00001-of-00002.safetensors");
    write_text("m/model.safetensors.index.json",
               "{\"weight_map\": {\"model.norm.weight\": \"model-00001-of-00002.safetensors\", "
               "\"lm_head.weight\": \"model-00002-of-00002.safetensors\"}}");
    model_is_refused("model-00002-of-00002.safetensors");
}

Test(bad_input, matrices_that_are_none)
{
    set_u16(UP ".q_groups", 0, 7);
    model_is_refused(UP ": q_groups: group 0 has width 7");
    fresh_model("exl2-4.0");
    set_u16(UP ".q_groups", 3, 1);
    model_is_refused(UP ": q_groups: group 0");
    fresh_model("exl2-4.0");
    set_i32(UP ".q_invperm", 0, 256);
    model_is_refused(UP ": q_invperm[0] is 256, expected 0 to 255");
    fresh_model("exl2-4.0");
    set_i32(UP ".q_invperm", 0, 17);
    set_i32(UP ".q_invperm", 1, 17);
    model_is_refused(UP ": q_invperm[0] repeats the value 17");
}

Test(bad_input, weights_that_are_no_numbers)
{
    set_u16(UP ".q_scale_max", 0, 0x7e00);
    model_is_refused(UP ": q_scale_max[0] is nan");
    fresh_model("exl2-4.0");
    set_u16(NORM, 3, 0x7c00);
    model_is_refused(NORM ": element 3 is inf");
}

Test(bad_input, configurations)
{
    replace("config.json", "", "\"hidden_size\": 256,", "");
    model_is_refused("config.json: hidden_size: missing");
    fresh_model("exl2-4.0");
    replace("config.json", "", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1000000000");
    model_is_refused("config.json: num_hidden_layers: 1000000000 is out of range");
    shell("rm m/config.json");
    model_is_refused("config.json");
}

Test(bad_input, tokenizers)
{
    replace("tokenizer.json", "\"merges\"", "\"h e\"", "\"neverheard e\"");
    model_is_refused("tokenizer.json: model.merges[1]: broken merge");
    shell("rm m/tokenizer.json");
    model_is_refused("tokenizer.json");
}

Test(bad_input, a_prompt_longer_than_the_context)
{
    refuses_with(2, "do not fit the context", "generate m --max-tokens 1 --prompt \"$(printf '%5000s' | tr ' ' x)\"");
}

static const char suite[] = "{\"schema\": {\"name\": \"plimsoll-suite\", \"major\": 1}, \"name\": \"mine\", "
                            "\"defaults\": {\"repeats\": 1, \"warmup\": 0}, "
                            "\"cases\": [{\"name\": \"nothing\", \"workload\": {\"kind\": \"null\"}}]}";

Test(bad_input, a_suite_with_a_typo)
{
    write_text("m/mine.json", suite);
    replace("mine.json", "", "\"repeats\"", "\"repeat\"");
    refuses_with(2, "mine.json: defaults.repeat: unknown key; did you mean repeats?", "run m/mine.json -o out.json");
    replace("mine.json", "", "\"null\"", "\"nul\"");
    replace("mine.json", "", "\"repeat\"", "\"repeats\"");
    refuses_with(2, "unknown workload \"nul\"; did you mean null?", "run m/mine.json -o out.json");
}

Test(bad_input, a_baseline_of_another_schema)
{
    write_text("m/mine.json", suite);
    shell(PLIMSOLL_PROGRAM " run m/mine.json -q -o mine.json > out.txt && mkdir -p baselines/exact");
    shell("sed 's/\"major\": 1/\"major\": 99/; s/plimsoll-result/plimsoll-baseline/' mine.json > baselines/exact/mine.json");
    refuses_with(3, "baselines/exact/mine.json: schema plimsoll-baseline version 99",
                 "gate mine.json --exact-only --baselines baselines");
}

/* A limit on the size of files is the disk that fills up; the result so far stays, as the valid file that it was. */
Test(bad_input, a_disk_that_fills_up)
{
    write_text("m/mine.json", suite);
    replace("mine.json", "", "\"workload\": {\"kind\": \"null\"}",
            "\"workload\": {\"kind\": \"null\"}, \"sweep\": {\"dq_rows\": {\"from\": 1, \"to\": 12, \"step\": 1}}");
    shell("trap '' XFSZ; ulimit -f 8; " PLIMSOLL_PROGRAM " run m/mine.json -q -o mine.json > out.txt 2> said.txt; test $? = 1");
    shell("test $(wc -l < said.txt) = 1 && grep -q 'plimsoll: writing mine.json: File too large' said.txt");
    shell("test \"$(ls)\" = \"$(printf 'm\\nmine.json\\nout.txt\\nsaid.txt')\"");
    shell(PLIMSOLL_PROGRAM " run m/mine.json --resume mine.json -q > out.txt");
}
