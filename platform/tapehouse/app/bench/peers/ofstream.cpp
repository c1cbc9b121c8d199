// std::ofstream writing records of 64 bytes: what a logger in C++ commonly is.
// Arguments: file, records, 1 to flush after each record. Prints ns a record, the last flush included.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>

struct Record {
    std::int64_t words[8];
};

int main(int count, char **arguments) {
    if (count != 4) return 2;
    const long records = std::atol(arguments[2]);
    const bool flush = arguments[3][0] == '1';
    std::ofstream file(arguments[1], std::ios::binary | std::ios::trunc);
    const auto start = std::chrono::steady_clock::now();
    for (long number = 0; number < records; ++number) {
        const Record record{{number, ~number, number, number, number, number, number, number}};
        file.write(reinterpret_cast<const char *>(&record), sizeof record);
        if (flush) file.flush();
    }
    file.flush();
    const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - start;
    if (!file) return 1;
    std::printf("%.3f\n", spent.count() / static_cast<double>(records));
    return 0;
}
