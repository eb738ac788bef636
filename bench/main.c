#include <stdio.h>

int main(void)
{
    puts("plimsoll");
    return 0;
}
