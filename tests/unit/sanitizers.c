/* What the sanitizers shall not report: libcriterion keeps 48 bytes of its own when tests run in parallel. */
const char *__lsan_default_suppressions(void);

const char *__lsan_default_suppressions(void)
{
	return "leak:libcriterion";
}
