// The header compiles in C++17 without a warning, and its initialisers cover all fields.
#include <sr_deploy.h>

#include <cstdio>

int main(int count, char **arguments)
{
    sr_options options = SR_OPTIONS_INIT;
    sr_info info = SR_INFO_INIT;
    sr_upscaler *upscaler = nullptr;
    options.threads = 1;
    options.notify = [](void *, const char *text) { std::puts(text); };
    if (count != 2 || sr_open(arguments[1], &options, &upscaler) != SR_OK || sr_query(upscaler, &info) != SR_OK)
        return 1;
    std::printf("%s x%d\n", info.model, info.scale);
    return sr_close(upscaler);
}
