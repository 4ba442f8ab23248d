/* Prints what QEMU compares cbitpos with: CPUID 0x8000001f EBX[5:0] as the instruction gives it. */
#include <cpuid.h>
#include <stdio.h>

int main(void) {
    unsigned a, b, c, d;
    __cpuid(0x8000001f, a, b, c, d);
    printf("%u\n", b & 0x3f);
    return 0;
}
