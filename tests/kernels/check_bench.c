void check_bench(void);
void check_bench(void) {}
